"""Demonstrations in the embedded simulator: experts at work, disturbed so that mistakes and recoveries are shown.

What is executed is the expert's action with noise, at times a lasting push, a gripper that opens by itself, or a grasp
at nothing: what a policy does that missed, and has to learn to get out of. What is recorded is the action that the
expert wanted. Each episode is determined by (seed, number) alone.
"""
import dataclasses
import io
from typing import Any

import numpy as np
from PIL import Image

from rtjax import envs
from rtjax.envs.tabletop import splits
from rtjax.envs.tabletop.scene import CAMERAS
from rtjax.language.instructions import hashed_ngrams

CHUNK = 20
"""Episodes per file of raw episodes."""

_NOISE = np.array([0.004] * 3 + [0.02] * 3 + [0.0])
_PUSH_CHANCE, _PUSH_STEPS, _PUSH = 0.04, 3, 0.03
_OPEN_CHANCE = 0.006
_GRASP_CHANCE, _GRASP_STEPS = 0.03, 6
_JPEG = {'format': 'JPEG', 'quality': 95, 'subsampling': 0}


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What the episodes are like. Two equal ones give the same episodes.

  Attributes:
    seed: another one gives other episodes.
    image_size: (height, width) of both cameras.
    renderer: 'rays' or 'gl'.
    disturbance: how much the experts are disturbed: 0 not at all, at 1 nearly all recover, at 5 half fail.
    wrist: whether to store the wrist camera besides the front one; without, recording takes two thirds of the time.
    multiview: whether to store all six of the simulator's cameras.
    split: whose episodes are drawn; all but 'seen' are refused where something held out turns up.
    skills: the skills to show, in turn; none draws from all of the split.
  """
  seed: int = 0
  image_size: tuple[int, int] = (96, 96)
  renderer: str = 'rays'
  disturbance: float = 1.0
  wrist: bool = True
  multiview: bool = False
  split: str = 'seen'
  skills: tuple[str, ...] = ()

  @property
  def pictures(self) -> list[str]:
    """The names of the stored pictures, as the environment's observations have them."""
    names = ['image', *(f'{name}_image' for name in CAMERAS[1:])]
    return names if self.multiview else names[:1 + self.wrist]


class Recorder:
  """Records episodes; one per process."""

  def __init__(self, recipe: Recipe):
    self._recipe = recipe
    self._env = envs.make('tabletop', split=recipe.split, image_size=recipe.image_size, renderer=recipe.renderer,
                          wrist=recipe.wrist, multiview=recipe.multiview)

  def record(self, number: int) -> dict[str, Any]:
    """Episode `number`: {'steps': [...], 'episode_metadata': {...}}, pictures as JPEG bytes.

    Raises:
      ValueError: the episode holds something that is held out of training data.
    """
    draw = np.random.default_rng((self._recipe.seed, number))
    env: Any = self._env.unwrapped
    skills = self._recipe.skills
    observation, _ = env.reset(seed=int(draw.integers(2 ** 31)),
                               options={'skill': skills[number % len(skills)]} if skills else None)
    start, scene = env.episode, env.episode.scene
    splits.require_seen(start.task, start.instruction, tuple(p.item for p in scene.objects), scene.look)
    expert, disturbance = env.expert(), Disturbance(draw, self._recipe.disturbance)
    embedding = hashed_ngrams(start.instruction)
    steps: list[dict[str, Any]] = []
    ended = False
    while not ended:
      action = expert(env.state)
      seen = observation
      observation, reward, terminated, truncated, info = env.step(disturbance(action))
      ended = terminated or truncated
      steps.append({
          'observation': self._stored(seen),
          'action': action, 'reward': np.float32(reward), 'discount': np.float32(1),
          'language_instruction': start.instruction, 'language_embedding': embedding,
          'is_first': not steps, 'is_last': ended, 'is_terminal': terminated})
    return {'steps': steps, 'episode_metadata': {
        'number': number, 'success': info['success'], 'skill': info['skill'], 'task': info['task'],
        'split': self._recipe.split, 'renderer': self._recipe.renderer, 'objects': info['objects'],
        'table': scene.look.table, 'wall': scene.look.wall, 'dropped': info['dropped']}}

  def close(self) -> None:
    self._env.close()

  def _stored(self, observation: dict[str, Any]) -> dict[str, Any]:
    pictures = {name: _jpeg(observation[name]) for name in self._recipe.pictures}
    return pictures | {'state': observation['proprioception']}


class Disturbance:
  """Changes what is executed: noise on every step, now and then a push that lasts, or a grasp at whatever is there.

  A grasp closes the gripper and lifts it for some steps, against the expert's will. Rarely the gripper opens.
  """

  def __init__(self, draw: np.random.Generator, strength: float = 1.0):
    self._draw, self._strength = draw, strength
    self._push, self._pushed = np.zeros(7), 0
    self._lift, self._grasped = 0.0, 0

  def __call__(self, action: np.ndarray) -> np.ndarray:
    self._pushed, self._grasped = self._pushed - 1, self._grasped - 1
    if self._pushed < 0 and self._draw.random() < _PUSH_CHANCE * self._strength:
      self._pushed = int(self._draw.integers(1, _PUSH_STEPS + 1))
      self._push = np.append(self._draw.uniform(-_PUSH, _PUSH, 3), np.zeros(4))
    if self._grasped < 0 and self._draw.random() < _GRASP_CHANCE * self._strength:
      self._grasped = int(self._draw.integers(2, _GRASP_STEPS + 1))
      self._lift = self._draw.uniform(0, 0.05)
    noise = self._strength * _NOISE * self._draw.normal(size=7)
    executed = action + noise + (self._push if self._pushed >= 0 else 0)
    if self._draw.random() < _OPEN_CHANCE * self._strength:
      executed[6] = 1.0
    if self._grasped >= 0:
      executed[2], executed[6] = self._lift + noise[2], 0.0
    limits = np.array([0.05] * 3 + [0.25] * 3)
    return np.append(np.clip(executed[:6], -limits, limits), executed[6]).astype(np.float32)


def record(recipe: Recipe, first: int, end: int) -> list[dict[str, Any]]:
  """Episodes [first, end)."""
  recorder = Recorder(recipe)
  try:
    return [recorder.record(number) for number in range(first, end)]
  finally:
    recorder.close()


def _jpeg(picture: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(picture).save(buffer, **_JPEG)
  return buffer.getvalue()
