"""Runs episodes in closed loop: several environments in as many processes, one call of the policy for all of them."""
import collections
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np

from rtjax import envs
from rtjax.actions import ActionSpec
from rtjax.evaluation.closed_loop import failures
from rtjax.evaluation.closed_loop.agents import Actor, Decision
from rtjax.evaluation.closed_loop.error_catching import Guarded
from rtjax.evaluation.closed_loop.protocol import Entry, Log
from rtjax.evaluation.html import frames

MakeEnv = Callable[..., gymnasium.Env]


@dataclasses.dataclass
class _Episode:
  """An episode under way."""
  entry: Entry
  facts: dict[str, Any]
  actions: list[np.ndarray] = dataclasses.field(default_factory=list)
  confidence: list[float] = dataclasses.field(default_factory=list)
  milliseconds: list[float] = dataclasses.field(default_factory=list)
  thumbnails: list[np.ndarray] = dataclasses.field(default_factory=list)
  held: set[str] = dataclasses.field(default_factory=set)
  interventions: int = 0
  started: float = dataclasses.field(default_factory=time.perf_counter)


@contextmanager
def arena(make: MakeEnv, split: str, count: int) -> Iterator[gymnasium.vector.AsyncVectorEnv]:
  """`count` guarded environments in as many processes; `make` must be picklable."""
  vector = envs.make_vector(functools.partial(Guarded, make, split), count)
  try:
    vector.reset()  # starts nothing; an environment that never was reset has no observation to stand in line with
    yield vector
  finally:
    vector.close(terminate=True)


class Runner:
  """Runs what is missing in a log.

  Args:
    actor: who acts.
    vector: from `arena`.
    log: gets a line for every episode that ends.
    spec: the environment's.
    control_hz: its control steps per second.
    films: folder for filmstrips, one JPEG an episode.
    videos: whether to write an animated WebP beside each.
  """

  def __init__(self, actor: Actor, vector: gymnasium.vector.AsyncVectorEnv, log: Log, spec: ActionSpec,
               control_hz: float, films: pathlib.Path, videos: bool = False):
    self._actor, self._vector, self._log, self._spec, self._hz = actor, vector, log, spec, control_hz
    self._films, self._videos = films, videos
    self._films.mkdir(parents=True, exist_ok=True)
    self._running: list[_Episode | None] = [None] * vector.num_envs

  def run(self, wanted: Sequence[Entry]) -> Iterator[dict[str, Any]]:
    """Runs what is missing of `wanted`; gives each episode's record when it is logged."""
    waiting = collections.deque(self._log.missing(wanted))
    observations: Mapping[str, Any] = {}
    while waiting or any(self._running):
      while waiting and not all(self._running):
        observations, ended = self._start(waiting)
        yield from map(self._end, ended)
      if any(self._running):
        observations, ended = self._step(observations)
        yield from map(self._end, ended)

  def _start(self, waiting: collections.deque[Entry]) -> tuple[Mapping[str, Any], list[int]]:
    """Starts episodes in all free slots; returns the observations and the slots whose start failed."""
    free = [slot for slot, episode in enumerate(self._running) if episode is None][:len(waiting)]
    begun = {slot: waiting.popleft() for slot in free}
    self._vector.set_attr('entry', [begun.get(slot) for slot in range(self._vector.num_envs)])
    mask = np.array([slot in begun for slot in range(self._vector.num_envs)])
    observations, infos = self._vector.reset(options={'reset_mask': mask})
    for slot, entry in begun.items():
      episode = self._running[slot] = _Episode(entry, infos['facts'][slot][0])
      if 'failure' not in episode.facts:
        self._actor.reset(slot, entry, observations['instruction'][slot])
    return observations, [slot for slot in begun if 'failure' in self._episode(slot).facts]

  def _step(self, observations: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[int]]:
    """One step everywhere; returns the new observations and the slots whose episodes ended."""
    slots = [slot for slot, episode in enumerate(self._running) if episode]
    seen = {name: value[slots] for name, value in observations.items() if isinstance(value, np.ndarray)}
    decisions = self._actor.act(slots, seen, self._vector)
    seconds = self._actor.latency()
    actions = np.zeros((len(self._running), self._spec.size), np.float32)
    for row, (slot, decision) in enumerate(zip(slots, decisions, strict=True)):
      actions[slot] = decision.action
      self._note(slot, seen['image'][row], decision, seconds)
    observations, _, terminated, truncated, infos = self._vector.step(actions)
    for slot in slots:
      episode = self._episode(slot)
      episode.facts = episode.facts | infos['facts'][slot][0]
      if episode.facts.get('grasped'):
        episode.held.add(episode.facts['grasped'])
    return observations, [slot for slot in slots if terminated[slot] or truncated[slot]]

  def _note(self, slot: int, image: np.ndarray, decision: Decision, seconds: float | None) -> None:
    episode = self._episode(slot)
    episode.actions.append(decision.action)
    episode.thumbnails.append(frames.thumbnail(image))
    episode.interventions += decision.intervened
    if decision.confidence is not None:
      episode.confidence.append(decision.confidence)
    if seconds is not None:
      episode.milliseconds.append(round(1000 * seconds, 3))

  def _end(self, slot: int) -> dict[str, Any]:
    episode = self._episode(slot)
    self._running[slot] = None
    shown = frames.evenly_spaced(len(episode.actions), frames.FILMSTRIP)
    if shown:
      film = frames.film([episode.thumbnails[step] for step in shown])
      (self._films / f'{episode.entry.name}.jpg').write_bytes(film)
      if self._videos:
        (self._films / f'{episode.entry.name}.webp').write_bytes(frames.video(episode.thumbnails, self._hz))
    found = self._record(episode) | {'film': shown}
    self._log.add(found)
    return found

  def _record(self, episode: _Episode) -> dict[str, Any]:
    facts, held = episode.facts, episode.held
    actions = np.array(episode.actions, np.float32).reshape(-1, self._spec.size)
    return {
        **dataclasses.asdict(episode.entry),
        'task': facts.get('task', ''), 'instruction': facts.get('instruction', ''),
        'success': bool(facts.get('success')),
        'failure': failures.label(facts, held, _closed(actions, self._spec)), 'message': facts.get('message', ''),
        'deed': failures.deed(facts, held), 'wrong_object': failures.wrong_object(facts, held),
        'steps': len(actions), 'seconds': round(time.perf_counter() - episode.started, 3),
        'jerk': jerk(actions, self._spec, self._hz), 'clipped': facts.get('clipped', 0),
        'confidence': float(np.mean(episode.confidence)) if episode.confidence else None,
        'interventions': episode.interventions, 'milliseconds': episode.milliseconds}

  def _episode(self, slot: int) -> _Episode:
    episode = self._running[slot]
    assert episode is not None
    return episode


def jerk(actions: np.ndarray, spec: ActionSpec, control_hz: float) -> float | None:
  """How much the commanded motion trembles, m/s^3: the mean size of the second difference of the commanded velocity.

  Args:
    actions: float32 [L, A]; the numbers in metres (or centimetres) are changes of position, one per control step.

  Returns:
    None for fewer than three steps, or where no number is in metres.
  """
  metres = np.array([{'m': 1.0, 'cm': 0.01}.get(unit, 0.0) for unit in spec.number_units])
  if len(actions) < 3 or not metres.any() or not np.isfinite(actions).all():
    return None
  return float(np.linalg.norm(np.diff(actions * metres * control_hz, 2, 0), axis=-1).mean() * control_hz ** 2)


def _closed(actions: np.ndarray, spec: ActionSpec) -> bool:
  """Whether the gripper was ever told to close (1 is open)."""
  return 'gripper' in spec.names and bool((spec.unpack(actions)['gripper'] <= 0.5).any())
