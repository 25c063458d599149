"""Episodes in closed loop, in parallel environments that share the agent's calls."""
import collections
import dataclasses
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from rtjax.actions import ActionSpec
from rtjax.evaluation.closed_loop import failures
from rtjax.evaluation.closed_loop.agents import Agent, Decision
from rtjax.evaluation.closed_loop.live import Viewer
from rtjax.evaluation.closed_loop.protocol import EpisodeId, EpisodeLog, as_json
from rtjax.runtime.html import frames


@dataclasses.dataclass
class _Episode:
  """Running episode."""
  id: EpisodeId
  info: dict[str, Any]
  actions: list[np.ndarray] = dataclasses.field(default_factory=list)
  confidence: list[float] = dataclasses.field(default_factory=list)
  latency_ms: list[float] = dataclasses.field(default_factory=list)
  thumbnails: list[np.ndarray] = dataclasses.field(default_factory=list)
  held: set[str] = dataclasses.field(default_factory=set)
  interventions: int = 0
  start: float = dataclasses.field(default_factory=time.perf_counter)


class Runner:
  """Runner of the episodes that are missing in a log.

  Args:
    agent: chooses the actions.
    vector: from `EvalEnvironment.vector`.
    log: gets a record of every finished episode.
    action_spec: of the environment.
    control_hz: control steps per second of the environment.
    films: folder for filmstrips, one JPEG per episode.
    videos: whether to write an animated WebP as well.
    viewer: sees the episodes while they run.
  """

  def __init__(self, agent: Agent, vector: gymnasium.vector.AsyncVectorEnv, log: EpisodeLog, action_spec: ActionSpec,
               control_hz: float, films: pathlib.Path, videos: bool = False, viewer: Viewer | None = None):
    self._agent, self._vector, self._log = agent, vector, log
    self._spec, self._hz, self._films, self._videos = action_spec, control_hz, films, videos
    self._viewer = viewer
    self._films.mkdir(parents=True, exist_ok=True)
    self._running: list[_Episode | None] = [None] * vector.num_envs

  def run(self, episodes: Sequence[EpisodeId]) -> Iterator[dict[str, Any]]:
    """Run the missing ones of `episodes`; yield each logged record."""
    waiting = collections.deque(self._log.missing(episodes))
    observations: Mapping[str, Any] = {}
    while waiting or any(self._running):
      while waiting and not all(self._running):
        observations, ended = self._start(waiting)
        yield from map(self._finish, ended)
      if any(self._running):
        observations, ended = self._step(observations)
        yield from map(self._finish, ended)

  def running(self, slot: int) -> str:
    """Return the name of the episode in a slot, or ''."""
    episode = self._running[slot]
    return episode.id.name if episode else ''

  def _start(self, waiting: collections.deque[EpisodeId]) -> tuple[Mapping[str, Any], list[int]]:
    """Start episodes in free slots; return observations and slots that failed."""
    free = [slot for slot, episode in enumerate(self._running) if episode is None][:len(waiting)]
    starting = {slot: waiting.popleft() for slot in free}
    self._vector.set_attr('episode', [starting.get(slot) for slot in range(self._vector.num_envs)])
    mask = np.array([slot in starting for slot in range(self._vector.num_envs)])
    observations, infos = self._vector.reset(options={'reset_mask': mask})
    for slot, episode_id in starting.items():
      episode = self._running[slot] = _Episode(episode_id, infos['info'][slot][0])
      if 'failure' not in episode.info:
        self._agent.reset(slot, episode_id, observations['instruction'][slot])
    return observations, [slot for slot in starting if 'failure' in self._episode(slot).info]

  def _step(self, observations: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[int]]:
    """Step all running episodes; return observations and slots that ended."""
    slots = [slot for slot, episode in enumerate(self._running) if episode]
    inputs = {name: value[slots] for name, value in observations.items() if isinstance(value, np.ndarray)}
    decisions = self._agent.act(slots, inputs, self._vector)
    seconds = self._agent.latency()
    actions = np.zeros((len(self._running), self._spec.size), np.float32)
    for row, (slot, decision) in enumerate(zip(slots, decisions, strict=True)):
      actions[slot] = decision.action
      self._record_decision(slot, inputs['image'][row], decision, seconds)
    if self._viewer:
      self._viewer.pace()
    observations, _, terminated, truncated, infos = self._vector.step(actions)
    for slot in slots:
      episode = self._episode(slot)
      episode.info = episode.info | infos['info'][slot][0]
      if episode.info.get('grasped'):
        episode.held.add(episode.info['grasped'])
    return observations, [slot for slot in slots if terminated[slot] or truncated[slot]]

  def _record_decision(self, slot: int, image: np.ndarray, decision: Decision, seconds: float | None) -> None:
    episode = self._episode(slot)
    episode.actions.append(decision.action)
    episode.thumbnails.append(frames.thumbnail(image))
    episode.interventions += decision.intervened
    if decision.confidence is not None:
      episode.confidence.append(decision.confidence)
    if seconds is not None:
      episode.latency_ms.append(round(1000 * seconds, 3))
    if self._viewer:
      self._viewer.step(slot, episode.info.get('instruction', ''), len(episode.actions), episode.thumbnails[-1])

  def _finish(self, slot: int) -> dict[str, Any]:
    episode = self._episode(slot)
    self._running[slot] = None
    shown = frames.evenly_spaced(len(episode.actions), frames.FILMSTRIP_FRAMES)
    if shown:
      filmstrip = frames.filmstrip([episode.thumbnails[step] for step in shown])
      (self._films / f'{episode.id.name}.jpg').write_bytes(filmstrip)
      if self._videos:
        (self._films / f'{episode.id.name}.webp').write_bytes(frames.video(episode.thumbnails, self._hz))
    record = self._record(episode) | {'filmstrip': shown}
    self._log.add(record)
    if self._viewer:
      self._viewer.finish(slot, record, episode.thumbnails)
    return record

  def _record(self, episode: _Episode) -> dict[str, Any]:
    info, held = episode.info, episode.held
    actions = np.array(episode.actions, np.float32).reshape(-1, self._spec.size)
    return as_json({
        **dataclasses.asdict(episode.id),
        'task': info.get('task', ''), 'instruction': info.get('instruction', ''),
        'success': bool(info.get('success')),
        'failure': failures.reason(info, held, _closes_gripper(actions, self._spec)),
        'message': info.get('message', ''),
        'outcome': failures.outcome(info, held), 'wrong_object': failures.wrong_object(info, held),
        'steps': len(actions), 'seconds': round(time.perf_counter() - episode.start, 3),
        'jerk': jerk(actions, self._spec, self._hz), 'clipped': info.get('clipped', 0),
        'confidence': float(np.mean(episode.confidence)) if episode.confidence else None,
        'interventions': episode.interventions, 'dropped_starts': info.get('dropped_starts', {}),
        'latency_ms': episode.latency_ms})

  def _episode(self, slot: int) -> _Episode:
    episode = self._running[slot]
    assert episode is not None
    return episode


def jerk(actions: np.ndarray, spec: ActionSpec, control_hz: float) -> float | None:
  """Compute the mean jerk of the commanded motion, in m/s^3.

  It is the mean magnitude of the second difference of the commanded velocity.

  Args:
    actions: float32 [steps, A]; numbers in m, cm or 5 cm are changes of position per control step.

  Returns:
    None for fewer than three steps, or if no number is a length.
  """
  metres = np.array([{'m': 1.0, '5 cm': 0.05, 'cm': 0.01}.get(unit, 0.0) for unit in spec.dimension_units])
  if len(actions) < 3 or not metres.any() or not np.isfinite(actions).all():
    return None
  return float(np.linalg.norm(np.diff(actions * metres * control_hz, 2, 0), axis=-1).mean() * control_hz ** 2)


def _closes_gripper(actions: np.ndarray, spec: ActionSpec) -> bool:
  """Return whether the gripper was ever commanded to close (1 is open)."""
  return 'gripper' in spec.names and bool((spec.unpack(actions)['gripper'] <= 0.5).any())
