"""Gymnasium environment of the tabletop."""
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from rtjax import actions
from rtjax.envs.tabletop import experts, layout, splits, tasks
from rtjax.envs.tabletop.arm import from_euler, to_euler
from rtjax.envs.tabletop.render import make_renderer
from rtjax.envs.tabletop.scene import CAMERAS
from rtjax.envs.tabletop.world import CONTROL_HZ, PhysicsError, State, World

HOLD_STEPS = 3
"""Consecutive steps for which a task must stay done to count as a success."""

# Reachable box of the gripper above the table (lowest, highest corner), m.
_WORKSPACE = np.array([[0.28, -0.36, 0.014], [0.72, 0.36, 0.45]])
_MAX_TILT = 1.6
_TRIES = 50
_ALPHABET = "abcdefghijklmnopqrstuvwxyz '"
_LOW, _HIGH = (side.astype(np.float32) for side in actions.ARM_7D.bounds)


class Tabletop(gymnasium.Env):
  """Arm at a table with objects, a bowl and a drawer.

  Action: float32 [7], the ActionSpec 'arm7d': changes of the gripper's x y z (within 0.05 m) and of its roll pitch yaw
  (within 0.25 rad) about the axes of the arm's base, and the gripper (above 0.5 opens, else closes). The change is
  applied to the gripper's measured pose. Numbers beyond the bounds are clipped and counted in `info['clipped']`; NaN
  and infinity are a ValueError.

  Observation: `image` and `wrist_image` uint8 [H, W, 3]; `proprioception` float32 [7]: the gripper's x y z (m), roll
  pitch yaw (rad, zero when it points straight down) and opening (1 open); `instruction`. With `multiview` also
  `images` uint8 [views, H, W, 3], the six cameras of `scene.CAMERAS`, and each of them by its name, as `left_image`.

  Reward is 1 when the task has been done for HOLD_STEPS steps in a row, which ends the episode (terminated), else 0.
  After `max_steps` steps the episode is truncated.

  Info: `success`, `skill`, `task` (its key), `instruction`, `split`, `objects` (their names), and the episode so far:
  `moved` (m that the gripper travelled), `touched` (names), `grasped` (name of the held object, or None), `dropped` (an
  object was lost from the closed gripper), `displaced` ({name: m}), `clipped` (actions). If the physics becomes
  unstable the episode is terminated with `info['failure'] == 'physics'`.

  Args:
    split: one of `splits.SPLITS`.
    image_size: (height, width).
    renderer: 'rays', which needs no graphics driver, 'gl', or 'none' for black images.
    seed: seed of the first episode, if `reset` is given none.
    wrist: whether to render `wrist_image`; if not, the observation lacks it.
    multiview: whether to render `images`.
  """

  metadata = {'render_modes': ['rgb_array'], 'render_fps': CONTROL_HZ}  # noqa: RUF012  (gymnasium's own class attribute)
  action_spec = actions.ARM_7D
  control_hz = CONTROL_HZ
  max_steps = 80
  skills = {name: split.skills for name, split in splits.SPLITS.items()}  # noqa: RUF012  (never changed)

  def __init__(self, split: str = 'seen', image_size: tuple[int, int] = (256, 320), renderer: str = 'rays',
               seed: int | None = None, wrist: bool = True, multiview: bool = False):
    self.split, self._split = split, splits.get(split)
    if len(image_size) != 2 or min(image_size) < 8:
      raise ValueError(f'image_size is {image_size}, expected (height, width), each at least 8 pixels.')
    self.image_size, self._multiview = (image_size[0], image_size[1]), multiview
    self.renderer_name = renderer
    self._renderer = make_renderer(renderer, self.image_size)
    views = len(CAMERAS) if multiview else 1 + wrist
    self._image_keys = ['image', *(f'{camera}_image' for camera in CAMERAS[1:views])]
    self.render_mode = 'rgb_array'
    self._first_seed = seed
    self.action_space = gymnasium.spaces.Box(_LOW, _HIGH, dtype=np.float32)
    self.observation_space = self._observation_space()
    self._world: World | None = None

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None
            ) -> tuple[dict[str, Any], dict[str, Any]]:
    """Start an episode, which `seed` determines completely.

    `options={'skill': 'pick'}` chooses the skill. Initial states in which the task is already done, or in which an
    object is displaced, are sampled again.
    """
    seed, self._first_seed = (self._first_seed if seed is None else seed), None
    super().reset(seed=seed)
    skill = _skill(options, self._split.skills)
    for _ in range(_TRIES):
      self.episode = layout.sample(self._split, self.np_random, skill)
      self._world = World(self.episode.scene)
      self._start = self._state = self._world.state()
      if layout.is_valid_start(self.episode, self._state):
        break
    else:
      raise RuntimeError(f'no valid initial state in {_TRIES} samples of the split {self.split!r}; choose another '
                         'seed.')
    self._renderer.start(self._world.model)
    self._steps = self._steps_done = self._clipped = 0
    self._moved, self._dropped = 0.0, False
    self._touched: set[str] = set()
    self._observation = self._observe()
    return self._observation, self._info()

  def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
    if self._world is None:
      raise RuntimeError('step was called before reset.')
    action = self._validate(action)
    before = self._state
    position, rotation = target_pose(before, action)
    self._steps += 1
    try:
      self._world.step(position, rotation, bool(action[6] > 0.5))
    except PhysicsError:
      return self._observation, 0.0, True, False, self._info() | {'success': False, 'failure': 'physics'}
    self._state = self._world.state()
    self._track(before, action)
    done = tasks.success(self.episode.task, self._state, self._start)
    self._steps_done = self._steps_done + 1 if done else 0
    terminated = self._steps_done >= HOLD_STEPS
    self._observation = self._observe()
    return (self._observation, float(terminated), terminated, not terminated and self._steps >= self.max_steps,
            self._info())

  def render(self) -> np.ndarray:
    """Return the policy's image, uint8 [H, W, 3]."""
    return self._observation['image']

  def render_camera(self, camera: str) -> np.ndarray:
    """Render the present view of one of `scene.CAMERAS`, uint8 [H, W, 3]."""
    assert self._world is not None
    return self._renderer.render(self._world.data, camera)

  @property
  def state(self) -> State:
    """State of the world: privileged information, for experts and analysis."""
    return self._state

  def expert(self) -> Callable[[State], np.ndarray]:
    """Return the expert for the episode's task: `state` to action float32 [7]."""
    return experts.get(self.episode.task)

  def close(self) -> None:
    self._renderer.close()

  def _validate(self, action: np.ndarray) -> np.ndarray:
    action = np.asarray(action, np.float32)
    if action.shape != (7,):
      raise ValueError(f'action has shape {action.shape}, expected (7,): translation (m), rotation (rad), gripper.')
    if not np.isfinite(action).all():
      raise ValueError(f'action holds NaN or infinite numbers: {action}, expected finite ones. Count the episode as '
                       'failed.')
    self._clipped += bool(self.action_spec.clipped(action).any())
    return np.clip(action, _LOW, _HIGH)

  def _track(self, before: State, action: np.ndarray) -> None:
    """Update the quantities that `info` accumulates over an episode."""
    now = self._state
    self._moved += float(np.linalg.norm(now.position - before.position))
    self._touched |= now.touched & {*now.poses, 'drawer'}
    self._dropped |= before.held is not None and now.held is None and action[6] <= 0.5

  def _observe(self) -> dict[str, Any]:
    assert self._world is not None
    state = self._state
    observation: dict[str, Any] = {
        'proprioception': np.concatenate([state.position, to_euler(state.rotation), [state.opening]],
                                         dtype=np.float32),
        'instruction': self.episode.instruction}
    images = {key: self.render_camera(camera) for key, camera in zip(self._image_keys, CAMERAS, strict=False)}
    if self._multiview:
      observation['images'] = np.stack(list(images.values()))
    return observation | images

  def _info(self) -> dict[str, Any]:
    names = [placed.item.name for placed in self.episode.scene.objects]
    displaced = {name: float(np.linalg.norm(self._state.poses[name].position - self._start.poses[name].position))
                 for name in self._state.poses}
    return {
        'success': self._steps_done >= HOLD_STEPS, 'skill': self.episode.task.skill, 'task': self.episode.task.key,
        'instruction': self.episode.instruction, 'split': self.split, 'objects': names, 'moved': self._moved,
        'touched': sorted(self._touched), 'grasped': self._state.held, 'dropped': bool(self._dropped),
        'displaced': displaced, 'clipped': self._clipped}

  def _observation_space(self) -> gymnasium.spaces.Dict:
    def images(*shape: int) -> gymnasium.spaces.Box:
      return gymnasium.spaces.Box(0, 255, shape, np.uint8)

    height, width = self.image_size
    spaces: dict[str, gymnasium.Space] = {
        'proprioception': gymnasium.spaces.Box(-np.inf, np.inf, (7,), np.float32),
        'instruction': gymnasium.spaces.Text(128, charset=_ALPHABET)}
    spaces |= {key: images(height, width, 3) for key in self._image_keys}
    if self._multiview:
      spaces['images'] = images(len(CAMERAS), height, width, 3)
    return gymnasium.spaces.Dict(spaces)


def target_pose(state: State, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Compute the commanded pose: position [3] in the workspace, rotation [3, 3]."""
  position = np.clip(state.position + action[:3], *_WORKSPACE)
  rotation = from_euler(action[3:6].astype(float)) @ state.rotation
  tilt = np.arccos(np.clip(rotation[2, 2], -1, 1))
  return position, rotation if tilt < _MAX_TILT else state.rotation


def _skill(options: dict[str, Any] | None, skills: tuple[str, ...]) -> str | None:
  unknown = set(options or {}) - {'skill'}
  if unknown:
    raise ValueError(f"options has {sorted(unknown)}, expected at most 'skill'.")
  skill = (options or {}).get('skill')
  if skill is not None and skill not in skills:
    raise ValueError(f'skill is {skill!r}, expected one of the split: {list(skills)}.')
  return skill
