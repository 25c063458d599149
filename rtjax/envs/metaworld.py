"""Meta-World: 50 tasks of a Sawyer arm.

Yu et al. 2019, in version 3.1 of farama.org.

    python eval.py CHECKPOINT --env metaworld/mt10              ten tasks; mt50: all
    python eval.py CHECKPOINT --env metaworld/reach-v3          one task

Its extra pins MuJoCo 3.3.0, which the tabletop does not run on, so it needs a separate virtual environment.
"""
import functools
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import metaworld
import numpy as np
from metaworld.policies import ENV_POLICY_MAP

from rtjax import actions
from rtjax.envs import require_known
from rtjax.envs.metaworld_tasks import INSTRUCTIONS, SUITES, TASKS
from rtjax.envs.tabletop.gl import GL
from rtjax.envs.tabletop.render import NoRenderer

# Meta-World samples the initial states of a task in benchmarks of this size.
_STARTS = 50
# The place of LeRobot's camera: 'corner2' moved to (0.75, 0.075, 0.7), which Meta-World 3.1 has as 'corner4'.
_CAMERA = 'corner4'
# No shadows, no multisampling: in software an image of 96x96 takes 9 ms, with MuJoCo's own 4096 and 4 it takes 87.
_SHADOW_MAP, _MULTISAMPLING = 0, 0


class MetaWorld(gymnasium.Env):
  """Tasks of Meta-World with camera images and instructions.

  Action: float32 [4], the ActionSpec 'metaworld', in Meta-World's units: changes of the gripper's target position
  (1 is a centimetre), and the gripper's effort (-1 opens, 1 closes). Numbers beyond the bounds are clipped and counted
  in `info['clipped']`; NaN and infinity are a ValueError.

  Observation: `image` uint8 [H, W, 3], the camera 'corner4' turned upright; `proprioception` float32 [4], the hand's
  x y z (m) and opening (1 open); `instruction`, that of LeRobot's demonstrations (metaworld_tasks.py).

  Episode: `reset(options={'skill': ...})` selects one of the tasks, otherwise the seed does. Seed s is initial state
  s % 50 of `metaworld.MT1(task, seed=s // 50)`. It ends at the first success that Meta-World reports (its own measure:
  success at any step), or after 500 steps.

  Info: `success`, `skill` (the task's name), `instruction`, `moved` (m that the hand travelled), `clipped` (actions).

  Args:
    task: one of TASKS, or one of SUITES for all its tasks.
    split: 'seen'; Meta-World has no other split.
    image_size: (height, width).
    renderer: 'gl', or 'none' for black images. The tabletop's ray caster cannot show Meta-World's meshes.
  """

  metadata = {'render_modes': ['rgb_array'], 'render_fps': 80}  # noqa: RUF012  (gymnasium's own class attribute)
  render_settings = {  # noqa: RUF012  (never changed)
      'camera': _CAMERA, 'shadow_map': _SHADOW_MAP, 'multisampling': _MULTISAMPLING}
  action_spec = actions.METAWORLD
  control_hz = 80
  max_steps = 500

  def __init__(self, task: str = '', split: str = 'seen', image_size: tuple[int, int] = (256, 320),
               renderer: str = 'gl'):
    self.skills = self.skills_of(task)
    require_known('split', split, list(self.skills))
    if renderer not in ('gl', 'none'):
      raise ValueError(f"renderer is {renderer!r}, Meta-World has 'gl' and 'none'.")
    self.split, self.renderer_name, self.render_mode = split, renderer, 'rgb_array'
    self._renderer: Any = (GL if renderer == 'gl' else NoRenderer)(image_size)
    self._env: Any = None
    self.task = ''
    self._open(self.skills[split][0])
    self.action_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    self.observation_space = gymnasium.spaces.Dict({
        'image': gymnasium.spaces.Box(0, 255, (*image_size, 3), np.uint8),
        'proprioception': gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32),
        'instruction': gymnasium.spaces.Text(64, charset=frozenset(''.join(INSTRUCTIONS.values())))})

  @staticmethod
  def skills_of(task: str) -> dict[str, tuple[str, ...]]:
    """Return the tasks of each split, given a task or a suite."""
    require_known('task or suite of Meta-World', task, (*SUITES, *TASKS))
    return {'seen': SUITES.get(task, (task,))}

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None
            ) -> tuple[dict[str, Any], dict[str, Any]]:
    super().reset(seed=seed)
    if seed is None:
      seed = int(self.np_random.integers(2 ** 31))
    tasks = self.skills[self.split]
    task = (options or {}).get('skill', tasks[seed % len(tasks)])
    require_known('skill', task, tasks)
    self._open(task)
    self._env.set_task(_starts(task, seed // _STARTS)[seed % _STARTS])
    self.state = self._env.reset()[0]
    self._moved, self._clipped, self._success = 0.0, 0, False
    return self._observe(), self._info()

  def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
    action = np.asarray(action, np.float32)
    if action.shape != (4,) or not np.isfinite(action).all():
      raise ValueError(f'action is {action}, expected 4 finite numbers: x y z and the effort of the gripper.')
    self._clipped += bool(self.action_spec.clipped(action).any())
    before = self.state
    self.state, reward, _, truncated, info = self._env.step(np.clip(action, -1, 1))
    self._moved += float(np.linalg.norm(self.state[:3] - before[:3]))
    self._success = bool(info['success'])
    return self._observe(), float(reward), self._success, truncated and not self._success, self._info()

  def expert(self) -> Callable[[np.ndarray], np.ndarray]:
    """Return Meta-World's scripted policy, a function of `state`.

    `state` is Meta-World's observation of 39 numbers.
    """
    policy = ENV_POLICY_MAP[self.task]()

    def act(state: np.ndarray) -> np.ndarray:
      with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # it warns about its gains
        return np.clip(policy.get_action(state), -1, 1)
    return act

  def render(self) -> np.ndarray:
    """Render the policy's image, uint8 [H, W, 3]."""
    # The camera is mounted upside down.
    return np.ascontiguousarray(self._renderer.render(self._env.data, _CAMERA)[::-1, ::-1])

  def close(self) -> None:
    self._renderer.close()
    self._env.close()

  def _open(self, task: str) -> None:
    """Load the model of `task`, unless it is loaded."""
    if task == self.task:
      return
    if self._env is not None:
      self._env.close()
    self._env = metaworld.ALL_V3_ENVIRONMENTS[task]()
    quality = self._env.model.vis.quality
    quality.shadowsize, quality.offsamples = _SHADOW_MAP, _MULTISAMPLING
    self._renderer.start(self._env.model)
    self.task = task

  def _observe(self) -> dict[str, Any]:
    return {'image': self.render(), 'proprioception': self.state[:4].astype(np.float32),
            'instruction': INSTRUCTIONS[self.task]}

  def _info(self) -> dict[str, Any]:
    return {'success': self._success, 'skill': self.task, 'instruction': INSTRUCTIONS[self.task],
            'moved': self._moved, 'clipped': self._clipped}


@functools.lru_cache(64)
def _starts(task: str, number: int) -> Any:
  return metaworld.MT1(task, seed=number).train_tasks
