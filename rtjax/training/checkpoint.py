"""Checkpoints: written while training goes on, whole or not at all, and each enough to act from.

    RUN/config.json               the run's configuration
    RUN/checkpoints/STEP/state    the TrainState (orbax)
    RUN/checkpoints/STEP/metadata JSON: "format", "step", "config" (the model's), "train" (the run's), "statistics",
                                  "embedding_id", "data" (position in the data, one per process), "metrics"; of
                                  a vision-language model also "vocabulary" and "origin" (what it started from)
    RUN/checkpoints/STEP/metrics  JSON: what `keep best` goes by; only where the step was validated

orbax writes into a temporary folder and renames it when done, so that a folder named by its step is whole unless
something damaged it later. The newest `keep` are kept, and the best one.
"""
import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from rtjax import models
from rtjax.models import vocabulary
from rtjax.training import sharding
from rtjax.training.state import TrainState, Tree, named

FORMAT = 1
Metadata = dict[str, Any]


class CheckpointError(RuntimeError):
  """A checkpoint could not be written or read."""


class Checkpoints:
  """The checkpoints of one run folder.

  Args:
    run: the run's folder; `checkpoints` in it need not exist.
    keep: how many of the newest to keep; the best is kept besides. At least 2, to have one to fall back to.
    best: name of the metric to judge by, the lower the better.
  """

  def __init__(self, run: epath.PathLike, *, keep: int = 2, best: str = 'loss'):
    self.folder = epath.Path(run).expanduser().resolve() / 'checkpoints'
    self._keep = keep
    self._goodness = lambda metrics: -metrics[best]
    self._manager: ocp.CheckpointManager | None = None
    self.latest: int | None = None  # step of the newest checkpoint known to be whole

  def restore(self, target: TrainState) -> tuple[TrainState, Metadata] | None:
    """The newest whole checkpoint, onto the target's devices, or None if there is none at all.

    Damaged newer ones are set aside, renamed to `STEP.corrupt`, with a warning. Call it before `save`.

    Args:
      target: shapes, types and shardings (jax.ShapeDtypeStruct) of the state.

    Raises:
      CheckpointError: if there are checkpoints and none can be read; all stay as they are.
    """
    damaged: dict[int, Exception] = {}
    for step in _steps(self.folder):
      found, cause = None, Exception('another process could not read it')
      try:
        with _without_late_reports():
          found = _read(self.folder / str(step), target)
      except Exception as error:  # orbax, tensorstore and JSON each fail in their own ways on a damaged file
        cause = error
      if _everywhere(found is not None):
        assert found is not None
        for damaged_step, why in damaged.items():
          self._set_aside(damaged_step, why)
        self.latest = step
        return found
      damaged[step] = cause
    if damaged:
      newest = max(damaged)
      raise CheckpointError(
          f'none of the checkpoints {sorted(damaged)} in {self.folder} can be read. The newest fails with: '
          f'{_short(damaged[newest])}. They are left as they are; give another --output to start anew.'
      ) from damaged[newest]
    return None

  def save(self, state: TrainState, metadata: Metadata, metrics: dict[str, float] | None = None) -> None:
    """Starts to write the checkpoint of `state.step`; returns once the state is copied, so that training can go on.

    Raises:
      CheckpointError: if this or the previous one could not be written, on a full disk for instance.
    """
    step = int(state.step)
    arguments = ocp.args.Composite(state=ocp.args.StandardSave(state),
                                   metadata=ocp.args.JsonSave({'format': FORMAT, 'step': step} | metadata))
    self.wait()
    try:
      self._opened().save(step, args=arguments, metrics=metrics, force=True)
    except Exception as error:
      raise self._failed(error) from error

  def wait(self) -> None:
    """Returns when what was begun is on disk, and raises as `save` does if it could not be written."""
    if self._manager is None:
      return
    try:
      self._manager.wait_until_finished()
      self._manager.check_for_errors()
    except Exception as error:
      raise self._failed(error) from error
    self.latest = self._manager.latest_step()

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
    """Finishes what was begun, also when an error ends the run; that error is the one to see."""
    with contextlib.suppress(CheckpointError) if kind else contextlib.nullcontext():
      self.wait()
    if self._manager is not None and kind is None:
      self._manager.close()

  @property
  def best(self) -> int | None:
    """Step of the checkpoint with the best metric, None if none has any."""
    manager = self._opened()
    step = manager.best_step()
    return step if step is not None and manager.metrics(step) else None

  def _opened(self) -> ocp.CheckpointManager:
    if self._manager is None:
      _quieten()
      best = policies.BestN(get_metric_fn=self._goodness, n=1, keep_checkpoints_without_metrics=False)
      self._manager = ocp.CheckpointManager(self.folder, options=ocp.CheckpointManagerOptions(
          best_fn=self._goodness, cleanup_tmp_directories=True,
          preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(self._keep), best])))
    return self._manager

  def _failed(self, error: Exception) -> CheckpointError:
    whole = f'The one of step {self.latest} is whole' if self.latest is not None else 'There is no older one'
    return CheckpointError(f'could not write a checkpoint to {self.folder}: {_short(error)}. {whole}. Make room or '
                           'mend the cause, then the same command resumes.')

  def _set_aside(self, step: int, cause: Exception) -> None:
    aside = self.folder / f'{step}.corrupt'
    warnings.warn(f'the checkpoint of step {step} in {self.folder} is damaged ({_short(cause)}); it is now '
                  f'{aside.name}, and an older one is used.', stacklevel=3)
    if jax.process_index() == 0:
      if aside.exists():
        aside.rmtree()
      (self.folder / str(step)).rename(aside)
    sharding.wait_for_all('damaged checkpoints are set aside')


def is_checkpoint(path: epath.PathLike) -> bool:
  """Whether `path` is a run's folder with at least one checkpoint, or one step's folder."""
  return bool(_candidates(path))


def load(path: epath.PathLike) -> tuple[Metadata, dict[str, Tree]]:
  """Reads the weights of a checkpoint, on any machine, whatever devices wrote it.

  Args:
    path: a run's folder (its newest whole checkpoint is taken) or one step's folder.

  Returns:
    The metadata (see the module's docstring), and NumPy trees `params`, `batch_stats`, `constants` and, if the run
    keeps one, `ema`.

  Raises:
    FileNotFoundError: if there is no checkpoint at `path`.
    CheckpointError: if what is there is damaged, or of a newer format.
  """
  candidates = _existing(path)
  first_error: Exception | None = None
  for folder in candidates:
    try:
      metadata = _read_metadata(folder)
      weights = _read_weights(folder / 'state')
    except Exception as error:  # as in Checkpoints.restore
      warnings.warn(f'the checkpoint {folder} is damaged: {_short(error)}.', stacklevel=2)
      first_error = first_error or error
      continue
    if metadata.get('format') != FORMAT:
      raise CheckpointError(f'{folder} is of format {metadata.get("format")}, this rtjax reads format {FORMAT}.')
    return metadata, weights
  assert first_error is not None
  raise CheckpointError(f'the checkpoint at {path} cannot be read: {_short(first_error)}.') from first_error


def read_metadata(path: epath.PathLike) -> Metadata:
  """The metadata of a checkpoint alone; `path` and errors as in `load`."""
  for folder in _existing(path):
    with contextlib.suppress(OSError, ValueError):
      return _read_metadata(folder)
  raise CheckpointError(f'the metadata of the checkpoint at {path} cannot be read.')


def load_model(path: epath.PathLike) -> Any:
  """The model of a checkpoint, with the moving average of its parameters if the run keeps one. See `load`."""
  metadata, weights = load(path)
  config = models.config_from_dict(metadata['config'])
  trees = weights.get('ema', weights['params']), weights['batch_stats'], weights['constants']
  model = models.from_values(config, {name: value for tree in trees for name, value in named(tree).items()})
  return vocabulary.attach(model, metadata)


def _existing(path: epath.PathLike) -> list[epath.Path]:
  candidates = _candidates(path)
  if not candidates:
    raise FileNotFoundError(f'no checkpoint at {path}: expected a run folder (with checkpoints/STEP in it) or the '
                            'folder of one step.')
  return candidates


def _candidates(path: epath.PathLike) -> list[epath.Path]:
  """Folders of steps at `path`, the newest first."""
  folder = epath.Path(path).expanduser().resolve()
  if (folder / 'state').is_dir() and (folder / 'metadata').is_dir():
    return [folder]
  if (folder / 'checkpoints').is_dir():
    folder = folder / 'checkpoints'
  return [folder / str(step) for step in _steps(folder)]


def _steps(folder: epath.Path) -> list[int]:
  """Steps that have a folder, the newest first; unfinished and set-aside ones have other names."""
  if not folder.is_dir():
    return []
  return sorted((int(p.name) for p in folder.iterdir() if p.name.isdigit()), reverse=True)


def _read(folder: epath.Path, target: TrainState) -> tuple[TrainState, Metadata]:
  metadata = _read_metadata(folder)
  if (folder / 'metrics').exists():
    json.loads((folder / 'metrics' / 'metrics').read_text())  # the manager would stumble over it later
  _quieten()
  with ocp.StandardCheckpointer() as reader:
    return reader.restore(folder / 'state', target), metadata


def _quieten() -> None:
  """Orbax warns of what is as it should be: checkpoints without metrics, and parts without metadata of their own."""
  logging.getLogger('absl').setLevel(logging.ERROR)


def _read_metadata(folder: epath.Path) -> Metadata:
  return json.loads((folder / 'metadata' / 'metadata').read_text())


def _read_weights(folder: epath.Path) -> dict[str, Tree]:
  _quieten()
  with ocp.PyTreeCheckpointer() as reader:
    stored = reader.metadata(folder).item_metadata.tree
    names = ('params', 'batch_stats', 'constants', 'ema')
    wanted = {name: stored[name] for name in names if stored.get(name) is not None}
    on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    return reader.restore(folder, args=ocp.args.PyTreeRestore(item=wanted, restore_args=on_host, partial_restore=True))


@contextlib.contextmanager
def _without_late_reports() -> Iterator[None]:
  """After a damaged file, the reads that orbax gave up on complain, each with a traceback; the one error is enough."""
  usual = sys.unraisablehook
  sys.unraisablehook = lambda args: None if 'Event loop is closed' in str(args.exc_value) else usual(args)
  try:
    yield
  finally:
    sys.unraisablehook = usual


def _everywhere(fine: bool) -> bool:
  """Whether all processes say so."""
  return bool(np.all(multihost_utils.process_allgather(np.array(fine))))


def _short(error: BaseException) -> str:
  """The first lines of an error; tensorstore's go on for pages."""
  text = ' '.join(str(error).split())
  return f'{type(error).__name__}: {text[:300]}{"..." if len(text) > 300 else ""}'
