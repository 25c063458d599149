"""The data of one run: batches on the devices, the position in them, validation."""
import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from rtjax.models import LossTerms
from rtjax.training import metrics, sharding
from rtjax.training.config import TrainConfig

Batch = dict[str, jax.Array]


class Batches:
  """The training batches of this process's share of the data, and the validation batches.

  Args:
    config: the run.
    data: rtjax.data, or anything with its functions.
    mesh: where batches go.

  Raises:
    ValueError, FileNotFoundError: if the data cannot be read as the configuration says.
  """

  def __init__(self, config: TrainConfig, data: Any, mesh: Mesh):
    if not config.data:
      raise ValueError('no data to train on: give folders or TFDS names of RLDS datasets, --data FOLDER_OR_NAME ...')
    self._config, self._data = config, data
    self._spec, self._process = config.model.action_spec, jax.process_index()
    self._place = sharding.batch_placer(mesh)
    self._window = {'window': config.model.window, 'horizon': config.model.horizon, 'padding': config.model.padding,
                    'process_index': self._process, 'process_count': jax.process_count()}
    if config.validate_every:
      self._validation().close()  # a missing split shows now, not at the first validation
    self.statistics: dict[str, Any] = data.statistics(config.data, config.pipeline, self._spec)
    self.embedding_id = _only_one({name: s['embedding_id'] for name, s in self.statistics.items()})
    self._stream = data.TrainingStream(
        config.data, config.pipeline, self._spec, batch_size=config.batch_size // jax.process_count(), seed=config.seed,
        **self._window)

  def __enter__(self) -> 'Batches':
    return self

  def __exit__(self, *_: Any) -> None:
    self._stream.close()

  def next(self) -> Batch:
    """The next training batch, on the devices."""
    return self._place(self._data.device_part(next(self._stream)))

  def sample(self, count: int) -> list[dict[str, Any]]:
    """The first training batches of process 0, on the host and the same in every process."""
    c = self._config
    window = self._window | {'process_index': 0, 'process_count': 1}
    with contextlib.closing(self._data.TrainingStream(
        c.data, c.pipeline, self._spec, batch_size=c.batch_size // c.micro_batches, seed=c.seed, **window)) as stream:
      return [self._data.device_part(next(stream)) for _ in range(count)]

  def position(self) -> list[dict[str, Any]]:
    """Where each process is in its share of the data."""
    return sharding.gather(self._stream.state())

  def restore(self, positions: list[dict[str, Any]]) -> None:
    """Goes to a `position`.

    Raises:
      ValueError: if another number of processes wrote it; each has its own share of the data.
    """
    if len(positions) != jax.process_count():
      raise ValueError(f'the run was written by {len(positions)} process(es) and there are {jax.process_count()} now, '
                       'which read other shares of the data. Resume with as many, or start a new run with --init-from.')
    self._stream.restore(positions[self._process])

  def validate(self, judge: Callable[[Batch], LossTerms], loss_scale: float) -> metrics.Row:
    """Averages over the held-out split, or as much of it as the configuration says."""
    sums: dict[str, Any] = {}
    with contextlib.closing(self._validation()) as batches:
      for batch in itertools.islice(batches, self._config.validation_batches or None):
        terms = jax.device_get(judge(self._place(self._data.device_part(batch))))
        sums = metrics.add(sums, terms.metrics | {'loss': (terms.total, terms.weight)})
    row = metrics.averages(sums, self._labels())
    return row | ({'loss': row['loss'] * loss_scale} if 'loss' in row else {})

  def _validation(self) -> Any:
    c = self._config
    size = c.batch_size // c.micro_batches // jax.process_count()
    return self._data.validation_batches(c.data, c.pipeline, self._spec, batch_size=size, **self._window)

  def _labels(self) -> dict[str, list[str]]:
    """Names of what the model's metrics are vectors of."""
    model = self._config.model
    # Padded in front, a slot has the same age in every window; padded behind, only in full ones.
    frames = [f't-{model.window - 1 - t}' if model.padding == 'front' else f'slot{t}' for t in range(model.window)]
    later = ['' if f == 0 else f'+{f}' for f in range(model.horizon)]
    return {'accuracy_per_token': [f'{name}{f}' for f in later for name in self._spec.token_names],
            'accuracy_per_step': frames, 'l1': list(self._spec.number_names)}


def _only_one(encoders: dict[str, str]) -> str:
  if len(set(encoders.values())) > 1:
    raise ValueError(f'the datasets were embedded with different instruction encoders: {encoders}. A network '
                     'learns one; train on datasets that share theirs.')
  return next(iter(encoders.values()))
