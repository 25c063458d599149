"""Training input: batches on the devices, the position in the data, validation."""
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import Mesh

from rtjax.data import to_batch
from rtjax.data.config import NO_VECTORS
from rtjax.language.prompts import TASKS
from rtjax.models import LossTerms, PolicyModel
from rtjax.observation import Batch, TextBatch
from rtjax.training import meter, sharding
from rtjax.training.config import TrainConfig
from rtjax.training.share import ShareStream
from rtjax.training.text_input import TextInput

if TYPE_CHECKING:
  from rtjax.language.tokenizer import Tokenizer


_OTHER_DATA = ('To resume the run, give its datasets in their order. To train on others, give another --output, and '
               'this one as --init.weights.')


class TrainingInput:
  """Training and validation batches of this process's share of the data.

  A batch holds windows of robot episodes, image-text pairs, or both.

  Args:
    config: the run.
    data: rtjax.data, or another object with its functions.
    mesh: devices of the batches.
    model: checks what it is given.
    tokenizer: of models that read prompts.

  Raises:
    ValueError, FileNotFoundError: the data cannot be read as the configuration says.
  """

  def __init__(self, config: TrainConfig, data: Any, mesh: Mesh, model: PolicyModel,
               tokenizer: 'Tokenizer | None' = None):
    if not config.data and not config.text_data:
      pairs = ', or image-text pairs, --text.data FOLDER_OR_NAME ...' if config.model.generates_text else ''
      raise ValueError('no data to train on: give folders or TFDS names of RLDS datasets, --data FOLDER_OR_NAME ...'
                       f'{pairs}')
    self._config, self._data, self._mesh, self._model = config, data, mesh, model
    self._peeked: Batch | None = None
    index, count = share = sharding.batch_share(mesh)
    self._text = TextInput(config, tokenizer, share) if tokenizer else None
    self._spec = config.model.action_spec
    # A model that reads prompts needs no instruction vectors, so the data need not have any.
    self._pipeline = dataclasses.replace(config.pipeline, encoder=NO_VECTORS) if tokenizer else config.pipeline
    self._window = {'window': config.model.window, 'horizon': config.model.horizon, 'padding': config.model.padding}
    self._share = {'process_index': index, 'process_count': count}
    if config.validation.every:
      for batches in self._validation():
        batches.close()  # a missing split fails here, not at the first validation
    self.statistics: dict[str, Any] = data.statistics(config.data, self._pipeline, self._spec) if config.data else {}
    self.embedding_id = tokenizer.id if tokenizer else _common_encoder(
        {name: s['embedding_id'] for name, s in self.statistics.items()})
    open_part = functools.partial(data.TrainingStream, config.data, self._pipeline, self._spec, seed=config.seed,
                                  **self._window)
    self._robot_stream = ShareStream(open_part, config.batch_size, share) if config.data else None
    self._streams = [s for s in (self._robot_stream, self._text and self._text.stream) if s]

  def __enter__(self) -> 'TrainingInput':
    return self

  def __exit__(self, *_: Any) -> None:
    for stream in self._streams:
      stream.close()

  def peek(self) -> Batch:
    """Return the next training batch, and leave it for `next`."""
    self._peeked = self.next()
    return self._peeked

  def next(self) -> Batch:
    """Return the next training batch, on the devices."""
    if self._peeked is not None:
      batch, self._peeked = self._peeked, None
      return batch
    batch = self._to_batch(next(self._robot_stream)) if self._robot_stream else Batch()
    if self._text and self._text.stream:
      batch = dataclasses.replace(batch, text=self._checked(self._text.next()))
    with jax.profiler.TraceAnnotation('transfer'):
      return sharding.place_batch(batch, self._mesh)

  def sample(self, count: int) -> list[Batch]:
    """Return the first training batches of process 0, on the host."""
    c = self._config
    size = c.batch_size // c.grad_accum_steps
    with contextlib.closing(self._data.TrainingStream(
        c.data, self._pipeline, self._spec, batch_size=size, seed=c.seed, **self._window)) as stream:
      return [self._to_batch(next(stream)) for _ in range(count)]

  def position(self) -> list[Any]:
    """Return the position in each part of the data (share.py)."""
    states = [stream.states() for stream in self._streams]
    mine = [[part, states[0][part] if len(states) == 1 else [s[part] for s in states]] for part in states[0]]
    found: dict[int, Any] = {}
    for part, position in (pair for pairs in sharding.gather(mine) for pair in pairs):
      if found.setdefault(part, position) != position:
        raise RuntimeError(f'two processes that read part {part} of the data are at different positions: '
                           f'{found[part]} and {position}.')
    return [found[part] for part in sorted(found)]

  def restore(self, positions: list[Any], statistics: dict[str, Any]) -> None:
    """Go to a `position`.

    Args:
      statistics: of the data at that time.

    Raises:
      ValueError: the data is another.
    """
    states = [part if isinstance(part, list) else [part] for part in positions]
    if len(states[0]) != len(self._streams):
      raise ValueError(f'the run was trained on {len(states[0])} kind(s) of data (--data, --text.data) and there are '
                       f'{len(self._streams)} now. Give those of the run.')
    _check_same_data(statistics, self.statistics)
    for stream, parts in zip(self._streams, zip(*states, strict=True), strict=True):
      stream.restore(list(parts))

  def validate(self, evaluate: Callable[[Batch], LossTerms], loss_scale: float) -> meter.Row:
    """Return averages over the held-out split, or its first batches."""
    losses: list[float] = []
    sums: dict[str, Any] = {}
    for weight, part in zip(self._loss_weights(), self._validation(), strict=True):
      total: dict[str, Any] = {}
      with contextlib.closing(part) as batches:
        for batch in itertools.islice(batches, self._config.validation.batches or None):
          terms = jax.device_get(evaluate(sharding.place_batch(batch, self._mesh)))
          total = meter.add(total, {'loss': (terms.total, terms.weight)})
          sums = meter.add(sums, terms.metrics)
      losses += [weight * loss for loss in meter.averages(total).values()]
    return meter.averages(sums, self._labels()) | ({'loss': sum(losses) * loss_scale} if losses else {})

  def _validation(self) -> list[Any]:
    """Return the held-out batches of episodes and of image-text pairs."""
    c = self._config
    size = c.batch_size // c.grad_accum_steps // self._share['process_count']
    parts = []
    if c.data:
      windows = self._data.validation_batches(c.data, self._pipeline, self._spec, batch_size=size, **self._window,
                                              **self._share)
      parts.append(_map(self._to_batch, windows))
    if self._text and self._text.stream:
      parts.append(_map(lambda text: Batch(text=self._checked(text)), self._text.validation()))
    return parts

  def _loss_weights(self) -> list[float]:
    """Return the weights of the losses of `_validation`."""
    c = self._config
    text = [c.text.loss_weight if c.data else 1.0] if c.text and c.text.data else []
    return [1.0] * bool(c.data) + text

  def _checked(self, text: TextBatch) -> TextBatch:
    self._model.check_text(text)
    return text

  def _to_batch(self, arrays: dict[str, Any]) -> Batch:
    batch = to_batch(arrays, self._text.prompts(arrays) if self._text else None)
    observation, _, _ = batch.windows()
    used = observation.proprioception if self._config.model.proprioception_size else None
    if used is None and self._config.model.proprioception_size:
      raise ValueError('the data has no proprioception, which this model needs: set --pipeline.proprioception and '
                       'train on datasets whose adapters name it.')
    self._model.check(dataclasses.replace(observation, proprioception=used))
    return batch

  def _labels(self) -> dict[str, list[str]]:
    """Return the names of the parts of those metrics that are vectors."""
    model = self._config.model
    # Padded in front, a slot has the same age in every window; padded behind, only in full ones.
    frames = [f't-{model.window - 1 - t}' if model.padding == 'front' else f'slot{t}' for t in range(model.window)]
    later = ['' if f == 0 else f'+{f}' for f in range(model.horizon)]
    return {'accuracy_per_token': [f'{name}{f}' for f in later for name in self._spec.token_names],
            'accuracy_per_frame': frames, 'l1': list(self._spec.dimension_names), 'answers': list(TASKS)}


def _map(function: Callable[[Any], Any], batches: Any) -> Iterator[Any]:
  with contextlib.closing(batches):
    yield from map(function, batches)


def _check_same_data(before: dict[str, Any], now: dict[str, Any]) -> None:
  """Compare the datasets of a run by content; their folders may differ."""
  if len(before) != len(now):
    raise ValueError(f'the run was trained on the datasets {list(before)}, and {list(now)} are given. {_OTHER_DATA}')
  for (old_name, old), (name, new) in zip(before.items(), now.items(), strict=True):
    was, found = _content(old), _content(new)
    differing = [f'{key}: {was.get(key)} there, {found.get(key)} now' for key in was | found
                 if was.get(key) != found.get(key) and was]
    if differing:
      raise ValueError(f'--data {name} holds other data than {old_name}, which the run was trained on:\n  '
                       + '\n  '.join(differing) + f'\n{_OTHER_DATA}')


def _content(entry: dict[str, Any]) -> dict[str, Any]:
  """Return the statistics that identify a dataset, wherever it lies."""
  if 'records' not in entry:  # written before there was this hash
    return {}
  return ({key: entry[key] for key in ('name', 'version', 'split', 'episodes', 'steps')}
          | {f'feature {path}': layout for path, layout in entry['features'].items()}
          | {'hash of all records': entry['records']})


def _common_encoder(encoders: dict[str, str]) -> str:
  if len(set(encoders.values())) > 1:
    raise ValueError(f'the datasets were embedded with different instruction encoders: {encoders}. A network '
                     'learns one; train on datasets that share theirs.')
  return next(iter(encoders.values()))
