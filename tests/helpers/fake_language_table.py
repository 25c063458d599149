"""Clone of Language-Table in miniature: the interface of its source, with points in place of physics."""
import pathlib
import sys
import textwrap

_FILES = {
    '__init__.py': '',
    'environments/__init__.py': '',
    'environments/rewards/__init__.py': '',
    'environments/oracles/__init__.py': '',
    'environments/blocks.py': '''
        import enum
        class LanguageTableBlockVariants(enum.Enum):
          BLOCK_8 = 'BLOCK_8'
        ''',
    'environments/language_table.py': '''
        import cv2
        import gym
        import numpy as np
        import tensorflow as tf
        from gym import spaces

        def draw(image, font=cv2.FONT_HERSHEY_DUPLEX):
          return cv2.resize(image, (1, 1))

        def save(path):
          return tf.io.gfile.GFile(path)

        class Client:
          connected = True
          def disconnect(self):
            self.connected = False

        class LanguageTable(gym.Env):
          def __init__(self, block_mode, reward_factory, seed=None):
            self._rng, self._reward = np.random.RandomState(seed), reward_factory()
            self.pybullet_client = Client()
            self.action_space = spaces.Box(-0.1, 0.1, (2,))
            self._start_block, self._oracle_target_block = 'red_moon', 'blue_cube'
            self.samples = 0

          def reset(self):
            self.samples += 1
            if self.samples == 1 and self._reward.crowded:
              raise ValueError('Exceeded max attempts for generating block pose.')
            self._effector = self._rng.uniform(-0.1, 0.1, 2)
            self._blocks = {'red_moon': self._rng.uniform(0.2, 0.3, 2), 'blue_cube': np.random.uniform(0.3, 0.4, 2)}
            if self.samples == 2 and self._reward.crowded:
              self._blocks['red_moon'] = self._blocks['blue_cube'] - 0.001
            return self.compute_state()

          def step(self, action):
            touches = np.linalg.norm(self._effector - self._blocks['red_moon']) < 0.05
            self._effector = self._effector + action
            if touches:
              self._blocks['red_moon'] = self._blocks['red_moon'] + action
            done = self.succeeded
            return self.compute_state(), 100.0 * done, done, {}

          @property
          def succeeded(self):
            return bool(np.linalg.norm(self._blocks['red_moon'] - self._blocks['blue_cube']) < 0.02)

          def compute_state(self):
            words = f'{self._reward.verb} the red moon to the blue cube'.encode()
            state = {'effector_translation': np.float32(self._effector),
                     'effector_target_translation': np.float32(self._effector),
                     'instruction': np.array(list(words) + [0] * (512 - len(words)), np.int32),
                     'rgb': self._render_camera((180, 320))}
            for name, place in {**self._blocks, 'green_star': np.array([5.0, 5.0])}.items():
              state[f'block_{name}_translation'] = np.float32(place)
              state[f'block_{name}_mask'] = np.float32([name in self._blocks])
            return state

          def _render_camera(self, image_size):
            image = np.full((*image_size, 3), 40, np.uint8)
            y, x = (np.clip(self._effector + 0.2, 0, 0.7) / 0.7 * np.array([170, 310])).astype(int)
            image[y:y + 10, x:x + 10] = 200
            return image
        ''',
    'environments/oracles/push_oracle_rrt_slowdown.py': '''
        import numpy as np
        from matplotlib import pyplot as plt
        from tf_agents.policies import py_policy
        from tf_agents.trajectories import time_step as ts

        class ObstacleOrientedPushOracleBoard2dRRT(py_policy.PyPolicy):
          def __init__(self, env, use_ee_planner):
            super().__init__(env.time_step_spec(), env.action_spec())
            self.phase, self._limit = 'move_to_pre_block', 0.35 / env.get_control_frequency()

          def get_plan(self, state):
            return bool(np.random.random() < 0.7)

          def _get_action_for_block_target(self, state):
            place, goal = (state[f'block_{name}_translation'] for name in ('red_moon', 'blue_cube'))
            move = place - state['effector_translation']
            if np.linalg.norm(move) < 0.05 or self.phase == 'push_block':
              self.phase, move = 'push_block', goal - place
            return move * min(1.0, self._limit / max(np.linalg.norm(move), 1e-9))
        '''}
_REWARDS = {
    'block2block': 'BlockToBlockReward', 'block2absolutelocation': 'BlockToAbsoluteLocationReward',
    'block2block_relative_location': 'BlockToBlockRelativeLocationReward',
    'block2relativelocation': 'BlockToRelativeLocationReward', 'separate_blocks': 'SeparateBlocksReward'}


def write(folder: pathlib.Path) -> pathlib.Path:
  """Write the clone; the first two starts of 'separate' do not count."""
  rewards = {f'environments/rewards/{module}.py':
             f'class {cls}:\n  verb, crowded = {cls[:4].lower()!r}, {module == "separate_blocks"}\n'
             for module, cls in _REWARDS.items()}
  for name, content in {**_FILES, **rewards}.items():
    file = folder / 'language_table' / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(content))
  return folder


def forget() -> None:
  """Forget an imported clone: a process can import one only."""
  for name in [name for name in sys.modules if name.partition('.')[0] == 'language_table']:
    del sys.modules[name]
