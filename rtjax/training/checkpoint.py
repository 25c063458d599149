"""Writing of checkpoints while training goes on, and resuming.

rtjax/checkpoints.py describes the layout.

orbax writes into a temporary folder and renames it when done, so that a folder named by its step is complete unless
something damaged it later. The checksums of its files are written before the rename, so that damage shows when it is
read. The newest `keep` are kept, and the best one.
"""
import contextlib
import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies
from orbax.checkpoint.path import atomicity

import rtjax
from rtjax import checkpoints
from rtjax.checkpoints import FORMAT, CheckpointError, Json
from rtjax.runtime import checksums, limits
from rtjax.training import sharding, single_layers
from rtjax.training.state import TrainState

_T = TypeVar('_T')

# Times of writing, and a file that says that all is written: nothing reads them, and they follow the checksums.
_WITHOUT_CHECKSUM = ('_CHECKPOINT_METADATA', 'commit_success.txt')


class RunCheckpoints:
  """Checkpoints of one run folder.

  Args:
    run: folder of the run; `checkpoints` in it need not exist.
    keep: number of the newest to keep, besides the best; at least 2, to have one to fall back to.
    best: metric that decides which is best, the lower the better.
    verify: compare checksums before a checkpoint is read.

  Attributes:
    latest: step of the newest checkpoint known to be complete.
  """

  def __init__(self, run: epath.PathLike, *, keep: int = 2, best: str = 'loss', verify: bool = True):
    self.folder = epath.Path(run).expanduser().resolve() / 'checkpoints'
    self._keep, self._verify = keep, verify
    self._score = lambda metrics: -metrics[best]
    self._manager: ocp.CheckpointManager | None = None
    self.latest: int | None = None

  def restore(self, target: TrainState) -> tuple[TrainState, Json] | None:
    """Read the newest complete checkpoint; return None without any.

    Damaged newer ones are renamed to `STEP.corrupt`, with a warning. Call it before `save`.

    Args:
      target: shapes, types and shardings (jax.ShapeDtypeStruct) of the state.

    Raises:
      CheckpointError: there are checkpoints and none can be read; all stay as they are.
    """
    damaged: dict[int, Exception] = {}
    for step in checkpoints.steps(self.folder):
      folder = self.folder / str(step)
      read = functools.partial(_read, folder, target)
      found: tuple[TrainState, Json] | Exception | None = self._damage(folder) or _attempt(read)
      if not isinstance(found, Exception):
        damaged |= self._without_metrics(step)
        for damaged_step, why in damaged.items():
          self._set_aside(damaged_step, why, step)
        self.latest = step
        return found
      damaged[step] = found
    if damaged:
      newest = max(damaged)
      raise CheckpointError(
          f'none of the checkpoints {sorted(damaged)} in {self.folder} can be read. The newest fails with: '
          f'{checkpoints.describe(damaged[newest])}. They are left as they are; give another --output to start again.'
      ) from damaged[newest]
    return None

  def save(self, state: TrainState, metadata: Json, metrics: dict[str, float] | None = None) -> None:
    """Start to write a checkpoint; return once the state is copied.

    Raises:
      CheckpointError: this or the previous one could not be written, on a full disk for instance.
    """
    step = int(state.step)
    header = {'format': FORMAT, 'rtjax': rtjax.__version__, 'step': step, 'checksums': checksums.NAME}
    arguments = ocp.args.Composite(state=ocp.args.StandardSave(state),
                                   metadata=ocp.args.JsonSave(header | metadata))
    self.wait()
    try:
      self._opened().save(step, args=arguments, metrics=metrics, force=True)
    except Exception as error:
      raise self._failed(error) from error

  def wait(self) -> None:
    """Wait until the checkpoint is on disk; raises as `save`."""
    if self._manager is None:
      return
    try:
      self._manager.wait_until_finished()
      self._manager.check_for_errors()
    except Exception as error:
      raise self._failed(error) from error
    self.latest = self._manager.latest_step()

  def __enter__(self) -> 'RunCheckpoints':
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
    """Finish the checkpoint in progress; an error of the run takes precedence."""
    with contextlib.suppress(CheckpointError) if kind else contextlib.nullcontext():
      self.wait()
    if self._manager is not None and kind is None:
      self._manager.close()

  @property
  def best(self) -> int | None:
    """Step of the best checkpoint; None if none was validated."""
    manager = self._opened()
    step = manager.best_step()
    return step if step is not None and manager.metrics(step) else None

  def _opened(self) -> ocp.CheckpointManager:
    if self._manager is None:
      checkpoints.silence_orbax()
      best = policies.BestN(get_metric_fn=self._score, n=1, keep_checkpoints_without_metrics=False)
      self._manager = ocp.CheckpointManager(self.folder, options=ocp.CheckpointManagerOptions(
          best_fn=self._score, cleanup_tmp_directories=True, temporary_path_class=_ChecksummedPath,
          preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(self._keep), best])))
    return self._manager

  def _failed(self, error: Exception) -> CheckpointError:
    older = f'The one of step {self.latest} is complete' if self.latest is not None else 'There is no older one'
    return CheckpointError(f'could not write a checkpoint to {self.folder}: {checkpoints.describe(error)}. {older}. '
                           'Make room or fix the cause, then the same command resumes.')

  def _damage(self, folder: epath.Path) -> Exception | None:
    """Compare checksums, each process a share; return the error."""
    share = slice(jax.process_index(), None, jax.process_count())
    return _attempt(functools.partial(checkpoints.check_files, folder, share)) if self._verify else None

  def _without_metrics(self, newest: int) -> dict[int, Exception]:
    """Return older steps with damaged metrics, which stop the manager."""
    found = {step: _attempt(functools.partial(_read_metrics, self.folder / str(step)))
             for step in checkpoints.steps(self.folder) if step < newest}
    return {step: error for step, error in found.items() if isinstance(error, Exception)}

  def _set_aside(self, step: int, cause: Exception, older: int) -> None:
    aside = self.folder / f'{step}.corrupt'
    warnings.warn(f'the checkpoint of step {step} in {self.folder} is damaged ({checkpoints.describe(cause)}); it is '
                  f'now {aside.name}, and that of step {older} is used.', stacklevel=3)
    if jax.process_index() == 0:
      if aside.exists():
        aside.rmtree()
      (self.folder / str(step)).rename(aside)
    sharding.wait_for_all('damaged checkpoints are renamed')


class _ChecksummedPath(atomicity.AtomicRenameTemporaryPath):
  """Temporary folder of a step, whose checksums are written before the rename."""

  async def finalize(self) -> None:
    if self.get_final().name.isdigit():  # orbax makes one for each folder in it as well
      checksums.write(self.get(), omit=_WITHOUT_CHECKSUM)
    await super().finalize()


def _attempt(action: Callable[[], _T]) -> _T | Exception:
  """Return the result of an action, or its error in any process."""
  result: _T | Exception
  try:
    with _without_late_reports():
      result = action()
  except Exception as error:  # orbax, tensorstore and JSON each fail in their own ways on a damaged file
    result = error
  if sharding.in_all_processes(not isinstance(result, Exception)):
    return result
  return result if isinstance(result, Exception) else CheckpointError('another process could not read it')


def _read(folder: epath.Path, target: TrainState) -> tuple[TrainState, Json]:
  metadata = checkpoints.read_step_json(folder)
  _read_metrics(folder)
  checkpoints.silence_orbax()
  with ocp.StandardCheckpointer() as reader:
    if single_layers.is_written_so(reader.metadata(folder / 'state').item_metadata.tree, target):
      before = reader.restore(folder / 'state', single_layers.taken_apart(target))
      return single_layers.stacked(before, target), metadata
    return reader.restore(folder / 'state', target), metadata


def _read_metrics(folder: epath.Path) -> None:
  if (folder / 'metrics').exists():
    limits.read_json(folder / 'metrics' / 'metrics')


@contextlib.contextmanager
def _without_late_reports() -> Iterator[None]:
  """Hide the tracebacks of reads that orbax abandoned."""
  usual = sys.unraisablehook
  sys.unraisablehook = lambda args: None if 'Event loop is closed' in str(args.exc_value) else usual(args)
  try:
    yield
  finally:
    sys.unraisablehook = usual
