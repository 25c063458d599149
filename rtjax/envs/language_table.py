"""Language-Table: blocks to push, in five families of tasks.

Lynch et al. 2022, "Interactive Language: Talking to Robots in Real Time"; RT-2 reports it (Brohan et al. 2023).

    git clone https://github.com/google-research/language-table
    python eval.py CHECKPOINT --env language_table --path language-table --episodes 250

The simulator is the public source itself, on PyBullet and without OpenGL. docs/results/language_table.md lists what
differs from its protocol.
"""
import collections
import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

from rtjax import actions
from rtjax.envs import language_table_source as source
from rtjax.envs import require_known

FULL_SIZE = (180, 320)
"""(height, width) of the simulator's camera."""

_TRIES = 100
_TOUCHED = 0.01  # m; only the effector moves blocks, itself or by another block
_NAMES = {'seen': source.FAMILIES}


class LanguageTable(gymnasium.Env):
  """Arm that pushes blocks on a table with a cylinder.

  Action: float32 [2], the ActionSpec 'language_table': changes of the effector's target x and y (m). Numbers beyond the
  bounds are clipped and counted in `info['clipped']`; NaN and infinity are a ValueError.

  Observation: `image` uint8 [H, W, 3], the simulator's camera of 180x320, averaged down to `image_size`;
  `proprioception` float32 [2], the effector's x and y (m); `instruction`, decoded from the observation's bytes.

  Episode: seed and skill (a family) determine it. A start counts if the oracle finds a plan, and if the task is not
  done already; others are dropped and counted. It ends at the first success, by the family's own reward, or after 200
  steps.

  Info: `success`, `skill`, `task` (its key), `instruction`, `moved` (m that the effector travelled), `displaced`
  ({block: m}), `touched` (blocks that are displaced by more than 1 cm), `clipped` (actions), `dropped_starts`
  ({reason: number}).

  Args:
    split: 'seen'; the benchmark has no other.
    image_size: (height, width).
    renderer: 'tiny', PyBullet's renderer without OpenGL, or 'none' for black images.
    path: folder of the clone; '' finds it on sys.path.
  """

  metadata = {'render_modes': ['rgb_array'], 'render_fps': 10}  # noqa: RUF012  (gymnasium's own class attribute)
  skills = _NAMES
  action_spec = actions.LANGUAGE_TABLE
  control_hz = 10
  max_steps = 200

  def __init__(self, split: str = 'seen', image_size: tuple[int, int] = FULL_SIZE, renderer: str = 'tiny',
               path: str = ''):
    require_known('split', split, list(self.skills))
    require_known('renderer', renderer, ['tiny', 'none'])
    if any(not 0 < size <= full for size, full in zip(image_size, FULL_SIZE, strict=True)):
      raise ValueError(f'image_size is {image_size}, expected (height, width) of at most {FULL_SIZE}, the size of '
                       "Language-Table's camera.")
    self.split, self.image_size, self.renderer_name, self.render_mode = split, image_size, renderer, 'rgb_array'
    self._source = source.load(path)
    self._simulator: Any = None
    self.protocol = {'simulator': f'language-table {self._source.version}', 'camera': list(FULL_SIZE),
                     'starts': 'the oracle finds a plan, and the task is not done'}
    low, high = (side.astype(np.float32) for side in self.action_spec.bounds)
    self.action_space = gymnasium.spaces.Box(low, high)
    self.observation_space = gymnasium.spaces.Dict({
        'image': gymnasium.spaces.Box(0, 255, (*image_size, 3), np.uint8),
        'proprioception': gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32),
        'instruction': gymnasium.spaces.Text(512, charset='abcdefghijklmnopqrstuvwxyz ,')})

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None
            ) -> tuple[dict[str, Any], dict[str, Any]]:
    super().reset(seed=seed)
    if seed is None:
      seed = int(self.np_random.integers(2 ** 31))
    skill = (options or {}).get('skill') or source.FAMILIES[seed % len(source.FAMILIES)]
    require_known('skill', skill, source.FAMILIES)
    self.close()
    self._random = np.random.RandomState(seed).get_state()
    self._skill, self._dropped = skill, collections.Counter[str]()
    self._steps, self._moved, self._clipped, self._success = 0, 0.0, 0, False
    with self._global_random():
      # A simulator of its own for every episode: one that is reset keeps traces of the episode before.
      self._simulator = self._source.simulator(
          block_mode=self._source.blocks, reward_factory=self._source.rewards[skill], seed=seed)
      self._camera = self._simulator._render_camera
      self._simulator._render_camera = _no_image  # it renders with every reading of the state
      self._oracle = self._find_start()
    self._state = self._simulator.compute_state()
    self._start = _positions(self._state)
    return self._observe(), self._info()

  def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
    action = np.asarray(action, np.float32)
    if action.shape != (2,) or not np.isfinite(action).all():
      raise ValueError(f'action is {action}, expected 2 finite numbers: changes of x and y (m).')
    self._clipped += bool(self.action_spec.clipped(action).any())
    before = self._state['effector_translation']
    assert isinstance(self.action_space, gymnasium.spaces.Box)
    with self._global_random():
      _, reward, _, _ = self._simulator.step(np.clip(action, self.action_space.low, self.action_space.high))
      self._state = self._simulator.compute_state()
    self._steps += 1
    self._moved += float(np.linalg.norm(self._state['effector_translation'] - before))
    self._success = reward > 0
    truncated = not self._success and self._steps >= self.max_steps
    return self._observe(), float(self._success), self._success, truncated, self._info()

  @property
  def state(self) -> Mapping[str, np.ndarray]:
    """State of the simulator, privileged information for the oracle."""
    return self._state

  @property
  def phase(self) -> str:
    """Task of the oracle, such as 'push_block'."""
    return self._oracle.phase

  def expert(self) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """Return the oracle, a function of `state`.

    It keeps a plan and a phase, so it is to be called once a step.
    """
    def act(state: Mapping[str, np.ndarray]) -> np.ndarray:
      with self._global_random():
        return np.asarray(self._oracle._get_action_for_block_target(state), np.float32)
    return act

  def render(self) -> np.ndarray:
    """Render the policy's image, uint8 [H, W, 3]."""
    if self.renderer_name == 'none':
      return np.zeros((*self.image_size, 3), np.uint8)
    image = self._camera(FULL_SIZE)
    if self.image_size == FULL_SIZE:
      return image
    return np.asarray(Image.fromarray(image).resize(self.image_size[::-1], Image.Resampling.BOX))

  def close(self) -> None:
    if self._simulator is not None:
      self._simulator.pybullet_client.disconnect()
      self._simulator = None

  def _find_start(self) -> Any:
    """Reset to a start that counts; return the oracle with its plan."""
    for _ in range(_TRIES):
      try:
        self._simulator.reset()
      except ValueError:  # the blocks found no room
        self._dropped['no room'] += 1
        continue
      if self._simulator.succeeded:
        self._dropped['solved'] += 1
        continue
      oracle = self._source.oracle(_OracleView(self._simulator, self.control_hz), use_ee_planner=True)
      if oracle.get_plan(self._simulator.compute_state()):
        return oracle
      self._dropped['no plan'] += 1
    raise RuntimeError(f'no start of {self._skill} counts in {_TRIES} samples ({dict(self._dropped)}); choose another '
                       'seed.')

  def _observe(self) -> dict[str, Any]:
    return {'image': self.render(), 'proprioception': np.asarray(self._state['effector_translation'], np.float32),
            'instruction': self._instruction()}

  def _instruction(self) -> str:
    numbers = np.asarray(self._state['instruction'])
    return bytes(numbers[numbers != 0].tolist()).decode()

  def _info(self) -> dict[str, Any]:
    positions = _positions(self._state)
    displaced = {name: float(np.linalg.norm(positions[name] - start)) for name, start in self._start.items()}
    return {'success': self._success, 'skill': self._skill, 'task': f'{self._skill}: {", ".join(self._blocks())}',
            'instruction': self._instruction(), 'moved': self._moved, 'displaced': displaced,
            'touched': sorted(name for name, distance in displaced.items() if distance > _TOUCHED),
            'clipped': self._clipped, 'grasps': False, 'dropped_starts': dict(self._dropped)}

  def _blocks(self) -> list[str]:
    """Names of the block to push, and of its target block."""
    simulator = self._simulator
    return [name.replace('_', ' ') for name in (simulator._start_block, simulator._oracle_target_block) if name]

  @contextlib.contextmanager
  def _global_random(self) -> Iterator[None]:
    """Give NumPy's global generator, used by the source, the episode's state."""
    outside = np.random.get_state()
    np.random.set_state(self._random)
    try:
      yield
    finally:
      self._random = np.random.get_state()
      np.random.set_state(outside)


class _OracleView:
  """Part of TF-Agents' wrapper that the oracle reads."""

  def __init__(self, simulator: Any, control_hz: float):
    self.pybullet_client, self._hz = simulator.pybullet_client, control_hz

  def get_control_frequency(self) -> float:
    return self._hz

  def time_step_spec(self) -> None:
    pass

  def action_spec(self) -> None:
    pass


def _no_image(image_size: tuple[int, int]) -> np.ndarray:
  return np.zeros((*image_size, 3), np.uint8)


def _positions(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Return x and y of each block on the table."""
  names = [key.removeprefix('block_').removesuffix('_mask') for key in state if key.endswith('_mask')]
  return {name.replace('_', ' '): np.array(state[f'block_{name}_translation'])
          for name in names if state[f'block_{name}_mask'][0]}
