"""The data of one run: batches on the devices, the position in them, validation."""
import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from rtjax.language.prompts import KINDS
from rtjax.models import LossTerms
from rtjax.training import metrics, sharding
from rtjax.training.config import TrainConfig
from rtjax.training.text_input import Texts

Batch = dict[str, jax.Array]


class Batches:
  """The training batches of this process's share of the data, and the validation batches.

  They hold windows of robot episodes, or pictures with texts (as `text_images` and so on), or both.

  Args:
    config: the run.
    data: rtjax.data, or anything with its functions.
    mesh: where batches go.
    tokenizer: of a vision-language model: instructions become prompts.

  Raises:
    ValueError, FileNotFoundError: if the data cannot be read as the configuration says.
  """

  def __init__(self, config: TrainConfig, data: Any, mesh: Mesh, tokenizer: Any = None):
    if not config.data and not config.image_text:
      raise ValueError('no data to train on: give folders or TFDS names of RLDS datasets, --data FOLDER_OR_NAME ... '
                       '(for RT-2 also pictures with texts, --image-text FOLDER_OR_NAME ...)')
    self._config, self._data = config, data
    self._texts = Texts(config, tokenizer) if tokenizer else None
    self._spec, self._process = config.model.action_spec, jax.process_index()
    self._place = sharding.batch_placer(mesh)
    self._window = {'window': config.model.window, 'horizon': config.model.horizon, 'padding': config.model.padding,
                    'process_index': self._process, 'process_count': jax.process_count()}
    if config.validate_every:
      for batches in self._validation():
        batches.close()  # a missing split shows now, not at the first validation
    self.statistics: dict[str, Any] = data.statistics(config.data, config.pipeline, self._spec) if config.data else {}
    self.embedding_id = tokenizer.id if tokenizer else _only_one(
        {name: s['embedding_id'] for name, s in self.statistics.items()})
    self._stream = None if not config.data else data.TrainingStream(
        config.data, config.pipeline, self._spec, batch_size=config.batch_size // jax.process_count(), seed=config.seed,
        **self._window)
    self._streams = [s for s in (self._stream, self._texts and self._texts.stream) if s]

  def __enter__(self) -> 'Batches':
    return self

  def __exit__(self, *_: Any) -> None:
    for stream in self._streams:
      stream.close()

  def next(self) -> Batch:
    """The next training batch, on the devices."""
    batch = self._robots(next(self._stream)) if self._stream else {}
    return self._place(batch | (self._texts.next() if self._texts and self._texts.stream else {}))

  def sample(self, count: int) -> list[dict[str, Any]]:
    """The first training batches of process 0, on the host and the same in every process."""
    c = self._config
    window = self._window | {'process_index': 0, 'process_count': 1}
    with contextlib.closing(self._data.TrainingStream(
        c.data, c.pipeline, self._spec, batch_size=c.batch_size // c.micro_batches, seed=c.seed, **window)) as stream:
      return [self._robots(next(stream)) for _ in range(count)]

  def position(self) -> list[dict[str, Any]]:
    """Where each process is in its share of the data."""
    states = [stream.state() for stream in self._streams]
    return sharding.gather(states[0] if len(states) == 1 else states)

  def restore(self, positions: list[dict[str, Any]]) -> None:
    """Goes to a `position`.

    Raises:
      ValueError: if another number of processes wrote it; each has its own share of the data.
    """
    if len(positions) != jax.process_count():
      raise ValueError(f'the run was written by {len(positions)} process(es) and there are {jax.process_count()} now, '
                       'which read other shares of the data. Resume with as many, or start a new run with --init-from.')
    states = positions[self._process]
    for stream, state in zip(self._streams, states if isinstance(states, list) else [states], strict=True):
      stream.restore(state)

  def validate(self, judge: Callable[[Batch], LossTerms], loss_scale: float) -> metrics.Row:
    """Averages over the held-out split, or as much of it as the configuration says."""
    losses: list[float] = []
    sums: dict[str, Any] = {}
    for weight, part in zip(self._weights(), self._validation(), strict=True):
      total: dict[str, Any] = {}
      with contextlib.closing(part) as batches:
        for batch in itertools.islice(batches, self._config.validation_batches or None):
          terms = jax.device_get(judge(self._place(batch)))
          total = metrics.add(total, {'loss': (terms.total, terms.weight)})
          sums = metrics.add(sums, terms.metrics)
      losses += [weight * loss for loss in metrics.averages(total).values()]
    return metrics.averages(sums, self._labels()) | ({'loss': sum(losses) * loss_scale} if losses else {})

  def _validation(self) -> list[Any]:
    """Batches of robot episodes, and of pictures with texts, of which there are any."""
    c = self._config
    size = c.batch_size // c.micro_batches // jax.process_count()
    parts = []
    if c.data:
      windows = self._data.validation_batches(c.data, c.pipeline, self._spec, batch_size=size, **self._window)
      parts.append(_mapped(self._robots, windows))
    return parts + ([self._texts.validation()] if self._texts and c.image_text else [])

  def _weights(self) -> list[float]:
    """What the losses of these parts count."""
    c = self._config
    return [1.0] * bool(c.data) + [c.vqa_weight if c.data else 1.0] * bool(c.image_text)

  def _robots(self, batch: dict[str, Any]) -> dict[str, Any]:
    """What the device takes of a batch of windows; for a vision-language model, with prompts as embeddings."""
    return self._data.device_part(batch) | ({'embeddings': self._texts.prompts(batch)} if self._texts else {})

  def _labels(self) -> dict[str, list[str]]:
    """Names of what the model's metrics are vectors of."""
    model = self._config.model
    # Padded in front, a slot has the same age in every window; padded behind, only in full ones.
    frames = [f't-{model.window - 1 - t}' if model.padding == 'front' else f'slot{t}' for t in range(model.window)]
    later = ['' if f == 0 else f'+{f}' for f in range(model.horizon)]
    return {'accuracy_per_token': [f'{name}{f}' for f in later for name in self._spec.token_names],
            'accuracy_per_step': frames, 'l1': list(self._spec.number_names), 'answers': list(KINDS)}


def _mapped(function: Callable[[Any], Any], batches: Any) -> Iterator[Any]:
  with contextlib.closing(batches):
    yield from map(function, batches)


def _only_one(encoders: dict[str, str]) -> str:
  if len(set(encoders.values())) > 1:
    raise ValueError(f'the datasets were embedded with different instruction encoders: {encoders}. A network '
                     'learns one; train on datasets that share theirs.')
  return next(iter(encoders.values()))
