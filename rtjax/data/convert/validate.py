"""Validation of episodes: errors, which stop a conversion, and warnings."""
import collections
import concurrent.futures
import dataclasses
import functools
import math
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from rich.table import Table

from rtjax.actions import ActionField, ActionSpec
from rtjax.data.beam import runner
from rtjax.data.convert.episode import EmptyEpisode, LoggedEpisode, cached_logs, read_episode, without_idle
from rtjax.data.convert.images import Inspected, inspect
from rtjax.data.convert.logs import Log, Problem
from rtjax.data.convert.options import ROTATION_UNITS, TRANSLATION_UNITS, Options
from rtjax.data.generation.item_store import ItemStore
from rtjax.data.numbers import far_numbers, far_rule, idle_steps, still_steps

# Beyond so many times the bounds the unit is probably wrong, in more than this share of the steps certainly.
_FAR, _SHARE = 5, 0.01
# A smaller share of steps is no matter of units, since nearly every step would be too large.
_FEW = 0.2
# Equal images in a row while the robot moves: more than the delay of a slow camera.
_STUCK = 4
# A larger share of steps that do nothing teaches a policy to do nothing.
_MANY_IDLE = 0.2
# Logs that a worker checks at once, at least; there are at most about 1000 such parts.
_CHECKED_TOGETHER = 20
_WIDER = ' If the robot is that fast: --bounds quantiles, or --action-spec FILE.json with wider bounds.'


@dataclasses.dataclass(frozen=True)
class Finding:
  """A problem of one episode, or of all together ('').

  Attributes:
    level: 'error' or 'warning'.
    kind: two or three words.
    episode: name of the episode.
    text: value found, value expected, and advice.
  """
  level: Literal['error', 'warning']
  kind: str
  episode: str
  text: str


@dataclasses.dataclass
class Report:
  """Result of a validation.

  Attributes:
    findings: in the order of the episodes.
    lengths: steps of each readable episode.
    left_out: names of the episodes without steps, which are not written.
    still: steps without motion, of all episodes.
    idle: those of them that do nothing at all.
    image_sizes: height and width of the first image of each camera.
    actions: of each readable episode, float32 [steps, A].
    states: of each readable episode with a robot state, by its name, float32 [steps, S].
    state: size of the robot state; None if there is none.
    period: median time between two steps, in the logs' unit; None if not recorded.
  """
  findings: list[Finding] = dataclasses.field(default_factory=list)
  lengths: dict[str, int] = dataclasses.field(default_factory=dict)
  left_out: list[str] = dataclasses.field(default_factory=list)
  still: int = 0
  idle: int = 0
  image_sizes: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
  actions: list[np.ndarray] = dataclasses.field(default_factory=list)
  states: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  state: int | None = None
  period: float | None = None

  def count(self, level: str) -> int:
    return sum(finding.level == level for finding in self.findings)

  def summary(self) -> str:
    steps = sum(self.lengths.values())
    parts = [f'{len(self.lengths)} readable episodes', f'{steps} steps']
    if self.left_out:
      parts.append(f'{len(self.left_out)} left out for lack of steps ({_first(self.left_out)})')
    if self.idle:
      parts.append(f'{self.idle} steps ({self.idle / steps:.1%}) do nothing')
    parts += [f'{"images" if camera == "image" else camera} {height}x{width}'
              for camera, (height, width) in self.image_sizes.items()]
    if self.state:
      parts.append(f'state of {self.state} numbers')
    if self.period:
      parts.append(f'one step per {self.period:.3g}')
    return ', '.join(parts)

  def table(self) -> Table:
    """Return a row per kind of finding, errors first."""
    table = Table('', 'problem', 'episodes', 'for example')
    grouped = collections.defaultdict(list)
    for finding in self.findings:
      grouped[finding.level, finding.kind].append(finding)
    for (level, kind), found in sorted(grouped.items(), key=lambda item: item[0][0]):
      names = list(dict.fromkeys(finding.episode for finding in found))
      where = 'all' if names == [''] else f'{len(names)}: {_first(names)}'
      colour = 'red' if level == 'error' else 'yellow'
      table.add_row(f'[{colour}]{level}[/]', kind, _plain(where), _plain(found[0].text))
    return table


@dataclasses.dataclass(frozen=True)
class Checked:
  """Check of one episode by itself.

  Attributes:
    name: of the log.
    left_out: whether it has too few steps.
    findings: its problems.
    actions: float32 [steps, A]; None if it is unreadable or left out, and so is all below.
    state: float32 [steps, S], or None.
    sizes: of each camera, [height, width, first image that has it].
    conversions: of each camera.
    still, idle: steps without motion, and those that do nothing at all.
    period: median time between two steps; None if not recorded.
  """
  name: str
  left_out: bool
  findings: list[Finding]
  actions: np.ndarray | None = None
  state: np.ndarray | None = None
  sizes: dict[str, list[list[int]]] = dataclasses.field(default_factory=dict)
  conversions: dict[str, list[str]] = dataclasses.field(default_factory=dict)
  still: int = 0
  idle: int = 0
  period: float | None = None


def validate(logs: Iterable[Log], options: Options, spec: ActionSpec,
             done: Callable[[], object] = lambda: None) -> Report:
  """Read every episode, decode every image, and report all problems.

  Episodes without steps are named and left out; they are no errors. `done` is called for each episode.
  """
  def checks() -> Iterator[Checked]:
    with concurrent.futures.ThreadPoolExecutor() as pool:
      for log in logs:
        done()
        yield check(log, options, spec, pool.map)

  return _report(checks(), options, spec)


def validate_on_workers(count: int, options: Options, spec: ActionSpec) -> Report:
  """Return the report of `validate`, with logs read on Apache Beam.

  This process holds the numbers of all episodes, as on one machine, but no images. `count` is the number of logs.
  """
  with runner.temporary_folder(options.beam) as folder:
    store = ItemStore(folder, max(_CHECKED_TOGETHER, count // 1000))
    store.fill(functools.partial(_check_range, options, spec, count), {'all': (0, count)}, 0, 'episodes checked',
               options.beam)
    checks = (Checked(**item | {'findings': [Finding(**found) for found in item['findings']]})
              for item in store.read(0, count))
    return _report(checks, options, spec)


def _check_range(options: Options, spec: ActionSpec, count: int, first: int, end: int) -> list[dict[str, Any]]:
  """Check the logs [first, end), in the form of ItemStore."""
  logs = cached_logs(options)
  if len(logs) != count:
    raise ValueError(f'LOGS is {options.logs}, with {len(logs)} episodes on {socket.gethostname()} and {count} where '
                     'the command runs. All workers must reach the same folder.')
  checks = [check(log, options, spec) for log in logs[first:end]]
  runner.count('episodes with errors', sum(found.level == 'error' for c in checks for found in c.findings[:1]))
  return [dataclasses.asdict(checked) for checked in checks]


def check(log: Log, options: Options, spec: ActionSpec, apply: Callable[..., Iterable[Any]] = map) -> Checked:
  """Read an episode, decode its images with `apply`, and find its problems."""
  try:
    episode = read_episode(log, options, spec)
    images = _inspect(episode, apply)
    idle = int(idle_steps(episode.actions, spec).sum())
    if options.drop_idle and len(without_idle(episode, spec)) < 2:
      raise EmptyEpisode(f'{idle} of its {len(episode)} steps do nothing.')
  except EmptyEpisode as problem:
    return Checked(log.name, True, [Finding('warning', problem.kind, log.name, f'left out: {problem}')])
  except Problem as problem:
    return Checked(log.name, False, [Finding('error', problem.kind, log.name, str(problem))])
  return Checked(
      log.name, False, list(_episode_findings(episode, options, spec)), episode.actions, episode.state,
      {camera: _sizes(found) for camera, found in images.items()},
      {camera: sorted({image.conversion for image in found} - {''}) for camera, found in images.items()},
      int(still_steps(episode.actions, spec).sum()), idle,
      None if episode.times is None else float(np.median(np.diff(episode.times))))


def _report(checks: Iterable[Checked], options: Options, spec: ActionSpec) -> Report:
  """Compare the episodes, in order, with the first one and with all."""
  report = Report()
  low, high = np.full(spec.size, np.inf), np.full(spec.size, -np.inf)
  periods: list[float] = []
  for checked in checks:
    if checked.actions is None:
      report.left_out += [checked.name] * checked.left_out
      report.findings += checked.findings
      continue
    report.lengths[checked.name] = len(checked.actions)
    report.actions.append(checked.actions)
    report.still += checked.still
    report.idle += checked.idle
    report.findings += [*_images(checked, report), *_state(checked, report), *checked.findings]
    low, high = np.minimum(low, checked.actions.min(0)), np.maximum(high, checked.actions.max(0))
    if checked.period is not None:
      periods.append(checked.period)
  report.period = float(np.median(periods)) if periods else None
  if report.lengths:
    report.findings += [*_idle(report, options), *_far(report, spec), *_dataset_findings(low, high, spec)]
  return report


def _inspect(episode: LoggedEpisode, apply: Callable[..., Iterable[Any]]) -> dict[str, list[Inspected]]:
  """Decode the images of each camera."""
  found = {}
  for camera, images in {'image': episode.images, **episode.views}.items():
    try:
      found[camera] = list(apply(inspect, images))
    except Problem as problem:
      raise Problem(problem.kind, f'{problem} Camera: {camera}.') from problem
  return found


def _sizes(images: list[Inspected]) -> list[list[int]]:
  """Return the sizes with their first images."""
  first: dict[tuple[int, int], int] = {}
  for i, image in enumerate(images):
    first.setdefault(image.size, i)
  return [[*size, i] for size, i in first.items()]


def _images(checked: Checked, report: Report) -> Iterable[Finding]:
  """Compare images with those of the first episode, and name conversions."""
  for camera, sizes in checked.sizes.items():
    size = report.image_sizes.setdefault(camera, (sizes[0][0], sizes[0][1]))
    other = [(i, (height, width)) for height, width, i in sizes if (height, width) != size]
    if other:
      yield Finding('error', 'image sizes', checked.name, f'{camera} {other[0][0]} is {other[0][1]} (height, '
                    f'width), the first of all {size}. Expected one size: resize them.')
    for conversion in checked.conversions[camera]:
      yield Finding('warning', 'images converted', checked.name, f'{camera}: {conversion}.')


def _state(checked: Checked, report: Report) -> Iterable[Finding]:
  """Compare the state with that of the first episode."""
  state = None if checked.state is None else checked.state.shape[1]
  if checked.state is not None:
    report.states[checked.name] = checked.state
  if len(report.lengths) == 1:
    report.state = state
  elif state != report.state:
    yield Finding('error', 'state sizes', checked.name, f'the state has {state or "no"} numbers, in the first episode '
                  f'{report.state or "none"}. Expected one size everywhere.')


def _episode_findings(episode: LoggedEpisode, options: Options, spec: ActionSpec) -> Iterable[Finding]:
  """Yield the problems of one episode."""
  def finding(level: Literal['error', 'warning'], kind: str, text: str) -> Finding:
    return Finding(level, kind, episode.name, text)

  empty = [i for i, text in enumerate(episode.paraphrases or episode.instructions) if not text.strip()]
  if empty:
    place = 'paraphrase' if episode.paraphrases else 'step'
    yield finding('error', 'empty instruction', f'at {place} {empty[0]}. Give one, or --task for all episodes.')
  elif len(set(episode.instructions)) == len(episode):
    yield finding('warning', 'instructions differ', 'every step has its own instruction. If they are several for one '
                  'task, add --paraphrases.')
  for field, part in spec.unpack(episode.actions).items():
    for level, kind, text in _bounds(spec.fields[spec.names.index(field)], np.asarray(part), options):
      yield finding(level, kind, text)
  for level, kind, text in (*_stuck(episode, spec), *_times(episode.times)):
    yield finding(level, kind, text)


_Found = tuple[Literal['error', 'warning'], str, str]


def _bounds(field: ActionField, part: np.ndarray, options: Options) -> Iterable[_Found]:
  """Compare the numbers of a field, [steps, size], with its bounds."""
  if field.kind == 'classes':
    if not np.all((part == 0) | (part == 1)) or np.any(part.sum(1) != 1):
      yield 'error', 'wrong classes', f'{field.name} is not one-hot: expected a single 1 among {field.size} numbers.'
    return
  if field.name == 'gripper':
    yield from _gripper(part)
    return
  if options.bounds == 'quantiles':
    return
  low, high = np.asarray(field.low), np.asarray(field.high)
  beyond = np.abs(part - (low + high) / 2) / ((high - low) / 2)  # 1 at the bounds
  worst = np.unravel_index(np.argmax(beyond), beyond.shape)
  number = field.name if field.size == 1 else f'{field.name}[{worst[1]}]'
  found = (f'{number} reaches {part[worst]:.3g}, the bounds are {low[worst[1]]:.3g} and {high[worst[1]]:.3g} '
           f'{field.unit}')
  far = (beyond > _FAR).any(1)
  if (beyond > _FAR).mean(0).max() > _SHARE and far.mean() > _FEW:
    yield 'error', f'{field.name} far too large', f'{found}. {_units(field, beyond, options)}' + (
        " Or a controller's -1 to 1? Multiply by its range." if np.abs(part).max() <= 1 else '') + _WIDER
  elif (beyond > _FAR).mean(0).max() > _SHARE:
    yield 'error', f'{field.name} has outliers', (
        f'{found}. Steps far beyond them: {far.sum()} of {len(far)}, the first is {far.argmax()}. Fix or remove the '
        f'episode.{_WIDER}')
  elif (beyond > 1 + 1e-6).any():
    share = (beyond[:, worst[1]] > 1 + 1e-6).mean()
    yield 'warning', f'{field.name} out of bounds', (
        f'{found}: {share:.1%} of the steps would be clipped. Above 1 % in all, train.py refuses the dataset.{_WIDER}')


def _units(field: ActionField, beyond: np.ndarray, options: Options) -> str:
  """Suggest the unit with which the numbers would fit."""
  flag, units, chosen = {
      'm': ('--translation-unit', TRANSLATION_UNITS, options.translation_unit),
      'rad': ('--rotation-unit', ROTATION_UNITS, options.rotation_unit)}.get(field.unit, ('', {}, ''))
  usual = np.quantile(beyond, 0.99)
  fit = [unit for unit, factor in units.items() if factor < units[chosen] and usual * factor / units[chosen] <= 1]
  words = {'mm': 'millimetres', 'cm': 'centimetres', 'deg': 'degrees'}
  guess = f'Are these {" or ".join(words[unit] for unit in fit)} ({flag} {fit[-1]})? ' if fit else ''
  if options.poses or not flag:
    return guess or 'Expected numbers within them.'
  return f'{guess}Or are they poses instead of changes (--poses)?'


def _gripper(part: np.ndarray) -> Iterable[_Found]:
  least, most = part.min(), part.max()
  if least < -0.02 or most > 1.02:
    yield 'error', 'gripper range', (f'the gripper is {least:.3g} to {most:.3g}, expected 0 (closed) to 1 (open). Give '
                                     'the values of the logs with --gripper-range CLOSED OPEN.')
  elif least == most:
    yield 'warning', 'constant gripper', f'the gripper is {least:.3g} in every step.'


def _stuck(episode: LoggedEpisode, spec: ActionSpec) -> Iterable[_Found]:
  """Find images that repeat while the robot moves."""
  pairs = [np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
           for a, b in zip(episode.images[:-1], episode.images[1:], strict=True)]
  if all(pairs):
    yield 'error', 'camera stuck', f'all {len(episode)} images are equal.'
    return
  motion = [unit != '' for unit in spec.dimension_units]
  moving = np.abs(episode.actions[:-1, motion]).max(1, initial=0) > 1e-6
  run, longest, end = 0, 0, 0
  for step, repeats in enumerate(np.logical_and(pairs, moving)):
    run = run + 1 if repeats else 0
    if run > longest:
      longest, end = run, step + 1
  if longest + 1 >= _STUCK:
    yield 'warning', 'images repeat', (f'images {end - longest} to {end} are equal while the robot moves. Was the '
                                       'camera slower than the log?')


def _times(times: np.ndarray | None) -> Iterable[_Found]:
  if times is None:
    return
  gaps = np.diff(times)
  usual = float(np.median(gaps))
  worst = int(np.argmax(np.abs(gaps - usual)))
  if gaps.min() <= 0:
    step = int(gaps.argmin())
    yield 'error', 'time not increasing', (f'--time goes from {times[step]:.6g} to {times[step + 1]:.6g} at step '
                                         f'{step + 1}. Expected increasing numbers: are steps out of order?')
  elif not math.isclose(gaps[worst], usual, rel_tol=0.5):
    yield 'warning', 'uneven steps', (f'the time between steps {worst} and {worst + 1} is {gaps[worst]:.3g}, usually '
                                      f'{usual:.3g}. Were steps dropped? A policy learns one rate.')


def _idle(report: Report, options: Options) -> Iterable[Finding]:
  steps = sum(report.lengths.values())
  if report.still > _MANY_IDLE * steps or (options.drop_idle and report.idle):
    advice = ('These are left out, except at the end of an episode.' if options.drop_idle else
              'They teach a policy to stop: leave these out with --drop-idle, unless waiting is part of the task.')
    yield Finding('warning', 'idle steps', '', f'{report.still} of {steps} steps ({report.still / steps:.1%}) do not '
                  f'move (each change below half a bin), and {report.idle} ({report.idle / steps:.1%}) do nothing: the '
                  f'rest, such as the gripper, is as in the step before. {advice}')


def _far(report: Report, spec: ActionSpec) -> Iterable[Finding]:
  """Yield the numbers that are absurdly far from all others."""
  found = far_numbers(dict(zip(report.lengths, report.actions, strict=True)), *far_rule(spec))
  sizes = {state.shape[1] for state in report.states.values()}
  if len(sizes) == 1:
    found += far_numbers(report.states, [f'state[{i}]' for i in range(*sizes)])
  for text in found:
    yield Finding('warning', 'absurd number', '', f'{text}. It distorts means and ranges: fix or remove the episode.')


def _dataset_findings(low: np.ndarray, high: np.ndarray, spec: ActionSpec) -> Iterable[Finding]:
  """Yield the problems that only all episodes together show."""
  still = [name for name, a, b in zip(spec.dimension_names, low, high, strict=True) if a == b]
  if still:
    yield Finding('warning', 'constant number', '', f'{", ".join(still)} never changes in any episode. Is it recorded?')
  if 'gripper' in spec.names:
    at = spec.dimension_names.index('gripper')
    if low[at] < high[at] and (high[at] < 0.5 or low[at] > 0.5) and low[at] >= -0.02:
      yield Finding('warning', 'gripper range', '', f'the gripper is {low[at]:.3g} to {high[at]:.3g} in all episodes, '
                    f'expected near 0 (closed) and near 1 (open). Is it a width? --gripper-range {low[at]:.3g} '
                    f'{high[at]:.3g}')


def _first(names: Sequence[str]) -> str:
  return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')


def _plain(text: str) -> str:
  return text.replace('[', r'\[')  # escape rich's markup
