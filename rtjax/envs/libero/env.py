"""Gymnasium environment of LIBERO."""
import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import gymnasium
import numpy as np

from rtjax import actions
from rtjax.envs import require_known
from rtjax.envs.libero import suites
from rtjax.envs.libero.geometry import Shapes, shapes
from rtjax.envs.tabletop.gl import GL
from rtjax.envs.tabletop.render import NoRenderer

os.environ.setdefault('MUJOCO_GL', 'egl')  # robosuite's own choice without a value, before MuJoCo reads it
logging.getLogger('robosuite_logs').setLevel(logging.ERROR)  # it asks for a file of private settings
from libero.libero.envs.env_wrapper import ControlEnv  # noqa: E402  (reads the environment variable)

Cameras = Literal['agent', 'wrist', 'both']
IDLE_STEPS = 10
"""Steps without motion before an episode, in which objects fall to rest, as in OpenVLA's evaluation."""
IDLE = np.array([0, 0, 0, 0, 0, 0, -1], np.float32)

_CAMERAS = {'agent': 'agentview', 'wrist': 'robot0_eye_in_hand'}
_SHADOW_MAP, _SAMPLES = 1024, 0
_OPEN = 0.04  # joint position of a finger, m
_COLLISION = 0  # group of the geoms that LIBERO hides


@dataclasses.dataclass(frozen=True)
class Pose:
  """Position [3] (m) and rotation [3, 3] in the world."""
  position: np.ndarray
  rotation: np.ndarray


@dataclasses.dataclass(frozen=True)
class State:
  """State of the world, for experts and analysis.

  Attributes:
    position, rotation: of the point between the fingertips; fingers point along its z axis and close along x.
    base: position [3] of the arm's base.
    opening: of the fingers, 1 open.
    held: the object between both fingers, or None.
    poses: of objects and fixtures, by name.
    boxes: corners [n, 8, 3] of boxes around their collision geoms.
    hollow: those whose middle is empty above half the height, as a bowl's.
    sites: poses of regions, by name.
    joints: positions of the joints of fixtures, by name.
    speeds: of objects and fixtures, m/s.
    unmet: predicates of the goal that do not hold, such as ['in', 'milk_1', 'basket_1_contain_region'].
  """
  position: np.ndarray
  rotation: np.ndarray
  base: np.ndarray
  opening: float
  held: str | None
  poses: Mapping[str, Pose]
  boxes: Mapping[str, np.ndarray]
  hollow: frozenset[str]
  sites: Mapping[str, Pose]
  joints: Mapping[str, float]
  speeds: Mapping[str, float]
  unmet: tuple[tuple[str, ...], ...]


class Libero(gymnasium.Env):
  """Suite of LIBERO with camera images and instructions.

  Action: float32 [7], the ActionSpec 'libero': what robosuite's controller OSC_POSE takes, changes of the gripper's
  position (1 is 0.05 m) and orientation (axis-angle, 1 is 0.5 rad) relative to the measured pose, about the axes of
  the world, and the gripper's effort (-1 opens, 1 closes). Numbers beyond the bounds are clipped and counted in
  `info['clipped']`; NaN and infinity are a ValueError.

  Observation: `image` uint8 [H, W, 3]: the cameras of `cameras`; `proprioception` float32 [8]: the gripper's x y z (m),
  its axis-angle (rad), and the position of each finger (m); `instruction`. Images are rotated by 180 degrees, as in the
  RLDS datasets of OpenVLA and Octo: upright, with the robot's left on the image's left.

  Episode: seed and skill select an official start (`suites.official_start`); ten idle steps come first. It ends at the
  first step in which LIBERO's goal holds, or after the suite's `max_steps`. `reset` takes options: `skill`; `start`,
  the number of an official start, or -1 for an own one, drawn by LIBERO's samplers from the seed.

  Info: `success`, `skill`, `task` (the skill and the objects and regions of its goal), `instruction`, `split`, `start`,
  `moved` (m), `grasped` (object), `clipped`.

  Args:
    task: the suite, one of `suites.SUITES`.
    split: one of `suites.SPLITS`.
    image_size: (height, width) of `image`, all cameras together.
    renderer: 'gl', with a shadow map of 1024 and without multisampling; 'gl_full', LIBERO's settings (4096, 4 samples),
      two to four times slower without a GPU; 'none' for black images.
    cameras: 'agent', the view over the table; 'wrist'; 'both', agent and wrist side by side.
  """

  metadata = {'render_modes': ['rgb_array'], 'render_fps': 20}  # noqa: RUF012  (gymnasium's own class attribute)
  action_spec = actions.LIBERO
  control_hz = 20

  def __init__(self, task: str = '', split: str = 'seen', image_size: tuple[int, int] = (128, 128),
               renderer: str = 'gl', cameras: Cameras = 'agent'):
    require_known('renderer', renderer, ['gl', 'gl_full', 'none'])
    require_known('choice of cameras', cameras, ['agent', 'wrist', 'both'])
    self.tasks = suites.tasks(task, split)
    suites.require_assets()
    self.suite, self.split, self.renderer_name, self.render_mode = task, split, renderer, 'rgb_array'
    self.max_steps = suites.MAX_STEPS[task]
    self.cameras = ('agent', 'wrist') if cameras == 'both' else (cameras,)
    height, width = image_size
    if width % len(self.cameras):
      raise ValueError(f"image_size is {image_size}, with cameras 'both' its width must be even: two images side by "
                       'side.')
    size = height, width // len(self.cameras)
    self._renderer: Any = NoRenderer(size) if renderer == 'none' else GL(size, hidden_groups=(_COLLISION,))
    self._env: Any = None
    self._skill = ''
    self._shapes = Shapes({}, frozenset())
    self.action_space = gymnasium.spaces.Box(-1, 1, (7,), np.float32)
    self.observation_space = gymnasium.spaces.Dict({
        'image': gymnasium.spaces.Box(0, 255, (*image_size, 3), np.uint8),
        'proprioception': gymnasium.spaces.Box(-np.inf, np.inf, (8,), np.float32),
        'instruction': gymnasium.spaces.Text(160, charset="abcdefghijklmnopqrstuvwxyz0123456789 '-,.")})

  @staticmethod
  def skills_of(task: str) -> dict[str, tuple[str, ...]]:
    """Return the skills of each split, the tasks of the suite."""
    return {split: tuple(suites.tasks(task, split)) for split in suites.SPLITS}

  @property
  def render_settings(self) -> dict[str, Any]:
    """Settings that change images or episodes, for the report."""
    quality = {'gl': {'shadow_map': _SHADOW_MAP, 'samples': _SAMPLES}}.get(self.renderer_name, {})
    return {'cameras': '+'.join(self.cameras), 'mujoco_gl': os.environ['MUJOCO_GL'], 'idle_steps': IDLE_STEPS} | quality

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None
            ) -> tuple[dict[str, Any], dict[str, Any]]:
    super().reset(seed=seed)
    if seed is None:
      seed = int(self.np_random.integers(2 ** 31))
    skill, start = self._chosen(seed, options or {})
    self.task, self._number = self.tasks[skill], start
    self._open(skill)
    self._unplace_fixtures()
    # Fixtures are placed by the samplers even where the start is official, which sets joints only.
    with _numpy_seed(seed % 2 ** 32 if start < 0 else start):
      self._env.reset()
    gripper = self._env.robots[0].gripper
    gripper.current_action = np.zeros(gripper.dof)  # robosuite keeps it over a reset without a new model
    if start >= 0:
      self._env.set_init_state(self.task.start(start))
    for _ in range(IDLE_STEPS):
      self._env.step(IDLE)
    self._steps, self._clipped, self._moved, self._success = 0, 0, 0.0, False
    self._position, self._grasped = self._gripper().position, self._held()
    return self._observe(), self._info()

  def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
    action = np.asarray(action, np.float32)
    if action.shape != (7,) or not np.isfinite(action).all():
      raise ValueError(f'action is {action}, expected 7 finite numbers: position, axis-angle, effort of the gripper.')
    self._clipped += bool(self.action_spec.clipped(action).any())
    self._steps += 1
    _, reward, done, _ = self._env.step(np.clip(action, -1, 1))
    position = self._gripper().position
    self._moved += float(np.linalg.norm(position - self._position))
    self._position, self._success, self._grasped = position, bool(done), self._held()
    truncated = not self._success and self._steps >= self.max_steps
    return self._observe(), float(reward), self._success, truncated, self._info()

  def render(self) -> np.ndarray:
    """Render the policy's image, uint8 [H, W, 3]."""
    data = self._env.sim.data._data
    # MuJoCo's image is upright: rotated by 180 degrees against OpenGL's, it is mirrored.
    images = [self._renderer.render(data, _CAMERAS[camera])[:, ::-1] for camera in self.cameras]
    return np.concatenate(images, 1)

  @property
  def state(self) -> State:
    """State of the world: privileged information, for experts and analysis."""
    domain, data = self._env.env, self._env.sim.data._data
    gripper = self._gripper()
    poses = {name: Pose(data.xpos[body].copy(), data.xmat[body].reshape(3, 3).copy())
             for name, body in domain.obj_body_id.items()}
    sites = {name: Pose(data.site(name).xpos.copy(), data.site(name).xmat.reshape(3, 3).copy())
             for name in domain.object_sites_dict}
    joints = {joint: float(data.joint(joint).qpos[0]) for fixture in domain.fixtures_dict.values()
              for joint in fixture.joints}
    speeds = {name: float(np.linalg.norm(data.body(body).cvel[3:])) for name, body in domain.obj_body_id.items()}
    unmet = tuple(tuple(predicate) for predicate in domain.parsed_problem['goal_state']
                  if not domain._eval_predicate(predicate))
    return State(
        gripper.position, gripper.rotation, data.body('robot0_base').xpos.copy(),
        float(np.clip(self._fingers()[0] / _OPEN, 0, 1)), self._grasped, poses,
        self._shapes.boxes(self._env.sim.model._model, data), self._shapes.hollow, sites, joints, speeds, unmet)

  def expert(self) -> Callable[[State], np.ndarray]:
    """Return the scripted expert for the episode's task: `state` to action float32 [7]."""
    from rtjax.envs.libero import experts
    return experts.act

  def close(self) -> None:
    self._renderer.close()
    if self._env is not None:
      self._env.close()
      self._env = None

  def _chosen(self, seed: int, options: Mapping[str, Any]) -> tuple[str, int]:
    unknown = set(options) - {'skill', 'start'}
    if unknown:
      raise ValueError(f"options has {sorted(unknown)}, expected at most 'skill' and 'start'.")
    skill = options.get('skill') or list(self.tasks)[seed % len(self.tasks)]
    require_known('skill', skill, list(self.tasks))
    start = options.get('start', suites.official_start(seed))
    if not -1 <= start < suites.NUM_STARTS:
      raise ValueError(f'start is {start}, expected an official start from 0 to {suites.NUM_STARTS - 1}, or -1 for an '
                       'own one.')
    return skill, start

  def _open(self, skill: str) -> None:
    """Build the simulation of a task, unless it is built."""
    if skill == self._skill and self._env is not None:
      return
    self.close()
    with _numpy_seed(0):
      self._env = ControlEnv(bddl_file_name=str(self.task.bddl), has_offscreen_renderer=False, use_camera_obs=False)
    self._env.env.hard_reset = False  # the model stays; `reset` places everything again
    self._skill = skill
    model = self._env.sim.model._model
    if self.renderer_name == 'gl':
      model.vis.quality.shadowsize, model.vis.quality.offsamples = _SHADOW_MAP, _SAMPLES
    self._renderer.start(model)
    self._shapes = shapes(model, self._env.env.obj_body_id)

  def _unplace_fixtures(self) -> None:
    """Put fixtures back where their files have them.

    LIBERO adds a fixture's new position to that of its regions, to place objects in a drawer or on a stove.
    """
    model = self._env.sim.model._model
    for fixture in self._env.env.fixtures_dict.values():
      body, file = model.body(fixture.root_body), fixture.get_obj()
      body.pos[:] = [float(number) for number in file.get('pos', '0 0 0').split()]
      body.quat[:] = [float(number) for number in file.get('quat', '1 0 0 0').split()]

  def _gripper(self) -> Pose:
    site = self._env.sim.data._data.site('gripper0_grip_site')
    return Pose(site.xpos.copy(), site.xmat.reshape(3, 3).copy())

  def _fingers(self) -> np.ndarray:
    data = self._env.sim.data._data
    return np.array([data.joint(f'gripper0_finger_joint{i}').qpos[0] for i in (1, 2)])

  def _held(self) -> str | None:
    domain = self._env.env
    parts = domain.robots[0].gripper.important_geoms
    fingers = [parts['left_finger'], parts['right_finger']]  # whole fingers: a thin wall may miss the pads
    return next((name for name, item in domain.objects_dict.items() if domain._check_grasp(fingers, item)), None)

  def _observe(self) -> dict[str, Any]:
    position = self._gripper().position
    quaternion = self._env.sim.data._data.body('robot0_right_hand').xquat
    proprioception = np.concatenate([position, _axis_angle(quaternion), self._fingers()], dtype=np.float32)
    return {'image': self.render(), 'proprioception': proprioception, 'instruction': self.task.instruction}

  def _info(self) -> dict[str, Any]:
    names = dict.fromkeys(name for predicate in self._env.env.parsed_problem['goal_state'] for name in predicate[1:])
    return {'success': self._success, 'skill': self.task.skill, 'task': f'{self.task.skill}: {", ".join(names)}',
            'instruction': self.task.instruction, 'split': self.split, 'start': self._number, 'moved': self._moved,
            'grasped': self._grasped, 'clipped': self._clipped}


def _axis_angle(quaternion: np.ndarray) -> np.ndarray:
  """Return axis times angle of a quaternion w x y z.

  The angle goes beyond pi: no jump where the gripper points down.
  """
  w = np.clip(quaternion[0], -1, 1)
  sine = np.sqrt(1 - w * w)
  return np.zeros(3) if sine < 1e-8 else quaternion[1:] / sine * 2 * np.arccos(w)


@contextlib.contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
  """Seed NumPy's global generator, from which LIBERO samples, and restore it."""
  before = np.random.get_state()
  np.random.seed(seed)
  try:
    yield
  finally:
    np.random.set_state(before)
