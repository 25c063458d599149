"""Episodes from logs: entries, units, actions from poses, idle steps."""
import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from rtjax.actions import ActionSpec
from rtjax.data.convert import libero, logs
from rtjax.data.convert.images import Images, to_images
from rtjax.data.convert.logs import Entry, Log, Problem, missing_entry
from rtjax.data.convert.options import ROTATION_UNITS, TRANSLATION_UNITS, Options
from rtjax.data.numbers import idle_steps
from rtjax.language import text
from rtjax.runtime import limits
from rtjax.runtime.numbers import LARGEST, unusable


class EmptyEpisode(Problem):
  """The episode is too short to train on; it is left out."""

  def __init__(self, text: str):
    super().__init__('empty episode', text)


@dataclasses.dataclass(frozen=True)
class LoggedEpisode:
  """A converted episode.

  Attributes:
    name: of the log.
    images: of the main camera: encoded, or uint8 [steps, H, W, 3].
    views: images of the other cameras, by their names.
    actions: float32 [steps, A], in the ActionSpec's units; finite.
    instructions: one text per step.
    paraphrases: all instructions of the episode, if there are several for one task; else empty.
    state: float32 [steps, S], or None.
    rewards: float32 [steps], or None.
    times: float64 [steps], or None.
  """
  name: str
  images: Images
  views: Mapping[str, Images]
  actions: np.ndarray
  instructions: Sequence[str]
  paraphrases: Sequence[str]
  state: np.ndarray | None
  rewards: np.ndarray | None
  times: np.ndarray | None

  def __len__(self) -> int:
    return len(self.actions)


def find_logs(options: Options) -> list[Log]:
  """Find the episodes of LOGS, in natural order of their names.

  Raises:
    FileNotFoundError, ValueError: see `logs.find_logs` and `libero.find_logs`.
  """
  if options.layout == 'libero':
    return libero.find_logs(options.logs)
  return logs.find_logs(options.logs, _names(options.poses or options.action)[0])


@functools.lru_cache(1)
def cached_logs(options: Options) -> list[Log]:
  """Return `find_logs(options)`, found once in a process."""
  return find_logs(options)


def read_episode(log: Log, options: Options, spec: ActionSpec) -> LoggedEpisode:
  """Read the episode of a log.

  Raises:
    Problem: an entry is missing, unreadable, of a wrong type or length, or not finite; or the episode has no step.
  """
  entry = _entry(log, options.image, '--image')
  key, flag = (options.poses, '--poses') if options.poses else (options.action, '--action')
  if _is_empty(entry) and _is_empty(_entry(log, _names(key)[0], flag)):
    raise EmptyEpisode('it has no step.')
  cameras = options.cameras()
  images = {'image': to_images(entry)} | {
      f'views {view}': to_images(_entry(log, key, f'--views {view}')) for view, key in cameras.items()}
  texts, paraphrases = _texts(log, options)
  numbers = {option: _numbers(log, getattr(options, option), f'--{option}')
             for option in (('poses', 'gripper') if options.poses else ('action',))}
  others = {option: _optional(log, options, option) for option in ('state', 'reward', 'time')}
  _same_length({**images, **numbers, **others, 'instruction': texts if isinstance(texts, list) else None})
  if options.poses:
    actions = from_poses(numbers['poses'], numbers['gripper'], options)
  else:
    actions = _in_units(numbers['action'], options, spec)
  if unusable(actions).any():
    raise Problem('absurd number', f'in its units the action of step {np.argwhere(unusable(actions))[0, 0]} is beyond '
                  f'{LARGEST:g}. Fix or remove the episode.')
  length = len(actions)  # one less than recorded, if made from poses
  if length < 2:
    raise EmptyEpisode(f'steps with an action: {length}, expected at least 2.')
  state, rewards, times = (None if part is None else part[:length] for part in others.values())
  main, *views = (part[:length] for part in images.values())
  return LoggedEpisode(
      name=log.name, images=main, views=dict(zip(cameras, views, strict=True)),
      actions=actions.astype(np.float32),
      instructions=[texts] * length if isinstance(texts, str) else texts[:length], paraphrases=paraphrases,
      state=None if state is None else state.astype(np.float32),
      rewards=None if rewards is None else rewards[:, 0].astype(np.float32),
      times=None if times is None else times[:, 0])


def without_idle(episode: LoggedEpisode, spec: ActionSpec) -> LoggedEpisode:
  """Leave out the idle steps, but never the last step.

  Its reward and flags end the episode.
  """
  kept = np.flatnonzero(~idle_steps(episode.actions, spec) | (np.arange(len(episode)) == len(episode) - 1))

  def take(part: Any) -> Any:
    return part if part is None else part[kept] if isinstance(part, np.ndarray) else [part[step] for step in kept]

  return dataclasses.replace(
      episode, views={view: take(images) for view, images in episode.views.items()},
      **{name: take(getattr(episode, name)) for name in ('images', 'actions', 'instructions', 'state', 'rewards',
                                                         'times')})


def _same_length(parts: Mapping[str, Sized | None]) -> None:
  lengths = {option: len(part) for option, part in parts.items() if part is not None}
  if len(set(lengths.values())) > 1:
    wordings = lengths.pop('instruction', None)
    found = ', '.join(f'{n} of --{option}' for option, n in lengths.items())
    if wordings is not None and len(set(lengths.values())) == 1:
      raise Problem('lengths differ', f'steps: {found}, but {wordings} of --instruction. Expected one text, or one for '
                    'each step. If they are several instructions for one task, add --paraphrases.')
    raise Problem('lengths differ', f'steps: {found}. Expected one of each for every step: remove a last image without '
                  'an action.')


def from_poses(poses: np.ndarray, gripper: np.ndarray, options: Options) -> np.ndarray:
  """Return the actions of arm7d between poses.

  Shapes: [steps, 6 or 7] and [steps, 1] to [steps - 1, 7].

  The translation is the difference of positions. The rotation, applied about the axes of the base frame, turns each
  orientation into the next; roll, pitch and yaw turn about the fixed x, y and z, in this order.
  """
  if poses.shape[1] not in (6, 7) or gripper.shape[1] != 1:
    raise Problem('wrong numbers', f'--poses has {poses.shape[1]} numbers and --gripper {gripper.shape[1]}, expected 6 '
                  '(x y z, roll pitch yaw) or 7 (x y z, quaternion x y z w), and 1. Select parts with [a:b].')
  if poses.shape[1] == 7:
    lengths = np.linalg.norm(poses[:, 3:], axis=1)
    if np.any(np.abs(lengths - 1) > 0.01):
      raise Problem('wrong numbers', f'--poses: a quaternion has length {lengths[np.argmax(np.abs(lengths - 1))]:.3g}, '
                    'expected 1. With seven numbers, the last four are a quaternion x y z w.')
    rotations = Rotation.from_quat(poses[:, 3:])
  else:
    rotations = Rotation.from_euler('xyz', poses[:, 3:] * ROTATION_UNITS[options.rotation_unit])
  translation = np.diff(poses[:, :3], axis=0) * TRANSLATION_UNITS[options.translation_unit]
  rotation = (rotations[1:] * rotations[:-1].inv()).as_euler('xyz')
  return np.concatenate([translation, rotation, _opening(gripper[1:], options)], 1)


def _in_units(numbers: np.ndarray, options: Options, spec: ActionSpec) -> np.ndarray:
  """Return recorded actions in the ActionSpec's units."""
  if numbers.shape[1] != spec.size:
    raise Problem('wrong numbers', f'--action has {numbers.shape[1]} numbers, the ActionSpec {options.action_spec!r} '
                  f'{spec.size}: {", ".join(spec.dimension_names)}. Select a part ({options.action}[7:14]), join '
                  'several (motion,gripper), or give another --action-spec.')
  scale = {'m': TRANSLATION_UNITS[options.translation_unit], 'rad': ROTATION_UNITS[options.rotation_unit]}
  numbers = numbers * [scale.get(unit, 1.0) for unit in spec.dimension_units]
  is_gripper = [name == 'gripper' for name in spec.dimension_names]
  return np.where(is_gripper, _opening(numbers, options), numbers)


def _opening(gripper: np.ndarray, options: Options) -> np.ndarray:
  closed, opened = options.gripper_range
  return (gripper - closed) / (opened - closed)


def _entry(log: Log, name: str, flag: str) -> Entry:
  try:
    return log.read(name)
  except KeyError:
    raise missing_entry(log, name, flag) from None


def _optional(log: Log, options: Options, option: str) -> np.ndarray | None:
  """Read an optional entry; None if its default name is missing.

  An entry that the user named must exist.
  """
  key = getattr(options, option)
  try:
    return _numbers(log, key, f'--{option}')
  except Problem as problem:
    if problem.kind == 'missing entry' and key == type(options).__dataclass_fields__[option].default:
      return None
    raise


def _numbers(log: Log, key: str, flag: str) -> np.ndarray:
  """Concatenate the entries that `key` names to float64 [steps, n]."""
  parts = [_part(log, part.strip(), flag) for part in key.split(',')]
  if len({len(part) for part in parts}) > 1:
    raise Problem('lengths differ', f'{flag} {key}: {[len(part) for part in parts]} steps, expected the same number of '
                  'each.')
  return np.concatenate(parts, 1)


def _is_empty(entry: Entry) -> bool:
  return not entry if isinstance(entry, list) else entry.shape[:1] == (0,)


def _names(key: str) -> list[str]:
  """Return the entries that `key` joins, without the parts it selects."""
  return [part.strip().split('[')[0] for part in key.split(',')]


def _part(log: Log, key: str, flag: str) -> np.ndarray:
  match = re.fullmatch(r'(.*?)\[(-?\d*)(:?)(-?\d*)\]', key)
  # A column may itself be called action[0].
  name, part = (match[1], match) if match and key not in log.names() else (key, None)
  entry = _entry(log, name, flag)
  if isinstance(entry, np.ndarray) and entry.dtype.kind == 'M' and flag == '--time':
    entry = entry.astype('datetime64[us]').astype(np.int64) * 1e-6
  if isinstance(entry, list) or entry.dtype.kind not in 'biufUS' or entry.ndim not in (1, 2):
    found = 'images' if isinstance(entry, list) else f'{entry.dtype} {list(entry.shape)}'
    raise Problem('wrong numbers', f'{flag} {name} is {found}, expected numbers [steps] or [steps, n].')
  if entry.size > limits.NUMBERS or (entry.ndim == 2 and not entry.shape[1]):
    raise Problem('wrong numbers', f'{flag} {name} is {entry.dtype} {list(entry.shape)}, expected at least one number '
                  f'a step, and at most {limits.NUMBERS:,} in all.')
  values = _floats(entry if entry.ndim == 2 else entry[:, None], f'{flag} {name}',
                   np.inf if flag == '--time' else LARGEST)
  if part is None:
    return values
  first, last = (int(number) if number else None for number in (part[2], part[4]))
  if not part[3] and first is not None:
    first, last = first, first + 1 or None
  if not values[:, first:last].shape[1]:
    raise Problem('wrong numbers', f'{flag} {key}: {name} has {values.shape[1]} numbers, none in this range.')
  return values[:, first:last]


def _floats(entry: np.ndarray, what: str, largest: float) -> np.ndarray:
  """Convert to float64.

  Raises:
    Problem: a value is not a finite number, or larger than `largest`.
  """
  values = entry.astype(np.float64) if entry.dtype.kind in 'biuf' else np.vectorize(_float, otypes=[np.float64])(entry)
  bad = np.argwhere(unusable(values, largest))
  if len(bad):
    step, number = bad[0]
    finite = np.isfinite(values[step, number])
    raise Problem('absurd number' if finite else 'not finite',
                  f'{what} is {str(entry[step, number])!r} at step {step}, number {number}'
                  + (f', and at {len(bad) - 1} other positions' if len(bad) > 1 else '')
                  + (f'. Expected numbers below {largest:g}' if finite else '. Expected finite numbers')
                  + ': fix or remove the episode.')
  return values


def _float(value: Any) -> float:
  try:
    return float(value) if '_' not in str(value) else np.nan  # Python reads '1_0' as 10
  except (TypeError, ValueError):
    return np.nan


def _texts(log: Log, options: Options) -> tuple[str | list[str], list[str]]:
  """Return one text, or one per step, and the paraphrases.

  Texts are in normal form, and empty without a word.
  """
  keys = _names(options.instruction) if options.paraphrases else [options.instruction]
  values = [('--task', options.task)] if options.task else [
      (f'--instruction {key}', value) for key in keys for value in _entry_texts(log, key)]
  if not options.paraphrases:
    words = [_tidy(value, what) for what, value in values]
    return (words if len(words) != 1 else words[0]), []
  lines = [_tidy(line, what) for what, value in values for line in value.splitlines() or [value]]
  paraphrases = list(dict.fromkeys(lines))
  return paraphrases[0], paraphrases


def _entry_texts(log: Log, key: str) -> Sequence[str | bytes]:
  """Return the texts of an entry, at least one."""
  try:
    entry = _entry(log, key, '--instruction')
  except Problem as problem:
    raise Problem(problem.kind, f'{problem} Or give the instruction of all episodes with --task.') from None
  texts = entry if isinstance(entry, list) else entry.tolist()
  values = texts if isinstance(texts, list) else [texts]
  if not values or not all(isinstance(value, str | bytes) for value in values):
    raise Problem('wrong instruction', f'--instruction {key} is {np.asarray(entry).dtype}, expected '
                  'text: one, or one per step.')
  return values


def _tidy(value: str | bytes, what: str) -> str:
  if len(value) > limits.INSTRUCTION:
    raise Problem('wrong instruction', f'{what}: a text of {len(value):,} characters, expected at most '
                  f'{limits.INSTRUCTION:,}.')
  try:
    return text.tidy(text.decode(value) if isinstance(value, bytes) else value)
  except ValueError as error:
    raise Problem('wrong instruction', f'{what}: {error}') from error
