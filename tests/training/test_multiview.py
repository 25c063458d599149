"""Training of the multi-view network on fabricated batches."""
import dataclasses
import types

import numpy as np
import pytest

from rtjax import actions, checkpoints, models
from rtjax.data.augment import AugmentConfig
from rtjax.models import RT1MultiviewConfig
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig, Stage
from rtjax.training import loop
from rtjax.training.config import CheckpointConfig, LoggingConfig, TrainConfig, ValidationConfig
from rtjax.training.optimizer import OptimizerConfig

MODEL = RT1MultiviewConfig(
    views=2, image_size=(16, 16), width=32, heads=2, layers=1, hidden=64, dropout=0.0,
    encoder=EfficientNetConfig(width=0.25, depth=0.25, drop_connect=0.0, momentum=0.9, stages=(Stage(3, 1, 16, 1, 2),)))
STEPS = 200
MEAN, STD = np.linspace(-2, 2, 7), np.linspace(1, 3, 7)


def arrays(seed: int, size: int) -> dict[str, np.ndarray]:
  """Windows whose actions have one of two values each.

  x depends on the instruction, the rest of the pose on the state, and the gripper on whether the second view is bright;
  the first view is bright at random.
  """
  bits = np.random.default_rng(seed).integers(0, 2, (9, size, 1, 1))
  signs = 2 * bits[:6] - 1
  noise = np.random.default_rng(seed).integers(0, 100, (size, 1, 2, 16, 16, 3))
  bright = 150 * np.concatenate([bits[6], bits[7]], -1)
  state = np.concatenate([*signs[1:], *np.zeros((2, size, 1, 1))], -1) * STD + MEAN
  return {'images': (noise + bright[..., None, None, None]).astype(np.uint8),
          'instruction': (signs[0] * np.ones(512) / 22).astype(np.float32), 'proprioception': state.astype(np.float32),
          'actions': np.concatenate([*(0.2 + 0.1 * signs), 1 - bits[7], bits[7]], -1)[:, :, None].astype(np.float32),
          'action_mask': np.ones((size, 1, 1), bool), 'frame_mask': np.ones((size, 1), bool)}


class Stream:

  def __init__(self, *_, batch_size, seed, **__):
    self._size, self._next = batch_size, seed

  def __next__(self):
    self._next += 1
    return arrays(self._next, self._size)

  def state(self):
    return {'next': self._next}

  def restore(self, state):
    self._next = state['next']

  def close(self):
    pass


def statistics(*_):
  state = {'mean': MEAN.tolist(), 'std': STD.tolist()}
  return {'poses': {'embedding_id': 'hashed-ngrams/1', 'steps': 100, 'proprioception': state}}


DATA = types.SimpleNamespace(
    TrainingStream=Stream, statistics=statistics,
    validation_batches=lambda *_, batch_size, **__: (arrays(10 ** 6 + i, batch_size) for i in range(2)))


def config(output, **changes) -> TrainConfig:
  given = {'data': ('poses',), 'output': str(output), 'steps': STEPS, 'batch_size': 32, 'grad_accum_steps': 2,
           'logging': LoggingConfig(every=20, tensorboard=False), 'checkpoints': CheckpointConfig(every=STEPS),
           'validation': ValidationConfig(every=STEPS), 'model': MODEL,
           'augment': AugmentConfig(crop=False), 'optimizer': OptimizerConfig(learning_rate=3e-3, warmup_steps=20)}
  return TrainConfig(**given | changes)


def test_trains_and_acts(tmp_path):
  """Instruction, state and views are all used, and the checkpoint keeps it."""
  row = loop.train(config(tmp_path / 'run'), data=DATA).row
  assert row['validation/loss'] < 0.2 and row['validation/accuracy'] > 0.95  # with the two values alone: 0.69 and 0.5
  assert not any('accuracy_per_frame' in name for name in row)
  model, _ = checkpoints.load(tmp_path / 'run')
  assert isinstance(model, models.RT1Multiview) and model.config == MODEL
  np.testing.assert_allclose(model.state.mean[...], MEAN, rtol=1e-6)
  made = arrays(7, 64)
  logits = np.asarray(model(made['images'], made['instruction'], made['proprioception']))
  assert np.mean(logits.argmax(-1) == actions.POSE_7D.tokenize(made['actions'])[:, :, 0]) > 0.95
  metadata = checkpoints.read_json(tmp_path / 'run')
  assert metadata['config']['model'] == metadata['train']['model']['model'] == 'rt1_multiview'


def test_a_batch_without_the_views_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r'images has shape .*expected \[B, T, 3, H, W, 3\]'):
    loop.train(config(tmp_path / 'run', model=dataclasses.replace(MODEL, views=3)), data=DATA)


def test_a_batch_without_the_state_is_refused(tmp_path):
  class Stateless(Stream):
    def __next__(self):
      return {name: array for name, array in super().__next__().items() if name != 'proprioception'}
  data = types.SimpleNamespace(**vars(DATA) | {'TrainingStream': Stateless})
  with pytest.raises(ValueError, match=r'no proprioception, .* set --pipeline\.proprioception'):
    loop.train(config(tmp_path / 'run'), data=data)
