"""The trainer on the multi-view network: fabricated batches in, a checkpoint that acts out."""
import dataclasses
import types

import numpy as np
import pytest
from flax import nnx

from rtjax import actions, models, pretrained
from rtjax.data import device_part
from rtjax.data.augment import AugmentConfig
from rtjax.models import MultiviewConfig, RT1Config, parameters
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig, Stage
from rtjax.training import checkpoint, initialize, loop
from rtjax.training.config import TrainConfig
from rtjax.training.optimizer import OptimizerConfig

MODEL = MultiviewConfig(
    views=2, image_size=(16, 16), width=32, heads=2, layers=1, hidden=64, dropout=0.0,
    encoder=EfficientNetConfig(width=0.25, depth=0.25, drop_connect=0.0, momentum=0.9, stages=(Stage(3, 1, 16, 1, 2),)))
STEPS = 200
MEAN, STD = np.linspace(-2, 2, 7), np.linspace(1, 3, 7)


def batch(seed: int, size: int) -> dict[str, np.ndarray]:
  """Each number says one of two things: x what the instruction does, the rest of the pose what the state does, and the
  gripper whether the second view is bright; the first view is now and then as well."""
  bits = np.random.default_rng(seed).integers(0, 2, (9, size, 1, 1))
  signs = 2 * bits[:6] - 1
  noise = np.random.default_rng(seed).integers(0, 100, (size, 1, 2, 16, 16, 3))
  bright = 150 * np.concatenate([bits[6], bits[7]], -1)
  state = np.concatenate([*signs[1:], *np.zeros((2, size, 1, 1))], -1) * STD + MEAN
  return {'images': (noise + bright[..., None, None, None]).astype(np.uint8),
          'embeddings': (signs[0] * np.ones(512) / 22).astype(np.float32), 'proprioception': state.astype(np.float32),
          'actions': np.concatenate([*(0.2 + 0.1 * signs), 1 - bits[7], bits[7]], -1)[:, :, None].astype(np.float32),
          'mask': np.ones((size, 1, 1), bool), 'frames': np.ones((size, 1), bool)}


class Stream:

  def __init__(self, *_, batch_size, seed, **__):
    self._size, self._next = batch_size, seed

  def __next__(self):
    self._next += 1
    return batch(self._next, self._size)

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
    TrainingStream=Stream, statistics=statistics, device_part=device_part,
    validation_batches=lambda *_, batch_size, **__: (batch(10 ** 6 + i, batch_size) for i in range(2)))


def config(output, **changes) -> TrainConfig:
  given = {'data': ('poses',), 'output': str(output), 'steps': STEPS, 'batch_size': 32, 'micro_batches': 2,
           'log_every': 20, 'save_every': STEPS, 'validate_every': STEPS, 'model': MODEL, 'tensorboard': False,
           'augment': AugmentConfig(crop=False), 'optimizer': OptimizerConfig(learning_rate=3e-3, warmup_steps=20)}
  return TrainConfig(**given | changes)


def test_trains_and_acts(tmp_path):
  """Instruction, state and views are all made use of, and the checkpoint's network does what the run's did."""
  row = loop.train(config(tmp_path / 'run'), data=DATA).row
  assert row['validation/loss'] < 0.2 and row['validation/accuracy'] > 0.95  # knowing the two values: 0.69 and 0.5
  assert not any('accuracy_per_step' in name for name in row)
  model = checkpoint.load_model(tmp_path / 'run')
  assert isinstance(model, models.RT1Multiview) and model.config == MODEL
  np.testing.assert_allclose(model.state.mean[...], MEAN, rtol=1e-6)
  made = batch(7, 64)
  logits = np.asarray(model(made['images'], made['embeddings'], made['proprioception']))
  assert np.mean(logits.argmax(-1) == actions.POSE_7D.tokenize(made['actions'])[:, :, 0]) > 0.95
  metadata = checkpoint.read_metadata(tmp_path / 'run')
  assert metadata['config']['model'] == metadata['train']['model']['model'] == 'rt1_multiview'


def test_a_batch_without_the_views_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r'images has shape .*expected \[B, T, 3, H, W, 3\]'):
    loop.train(config(tmp_path / 'run', model=dataclasses.replace(MODEL, views=3)), data=DATA)


def test_statistics_are_those_of_all_datasets_together():
  random = np.random.default_rng(0)
  sets = [random.normal(i, 1 + i, (50 + 30 * i, 7)) for i in range(3)]
  found = {str(i): {'steps': len(s), 'proprioception': {'mean': s.mean(0).tolist(), 'std': s.std(0).tolist()}}
           for i, s in enumerate(sets)}
  kept = []
  network = types.SimpleNamespace(standardize=lambda moments: kept.extend(moments('proprioception')))
  initialize.standardize(network, found)
  together = np.concatenate(sets)
  np.testing.assert_allclose(kept, [together.mean(0), together.std(0)], rtol=1e-6)
  found['1']['proprioception'] = None
  with pytest.raises(ValueError, match=r"adapters of \['1'\] name no proprioception"):
    initialize.standardize(network, found)
  initialize.standardize(types.SimpleNamespace(), found)  # a network that looks at no state does not mind


def test_starts_from_the_image_encoder_of_rt1(monkeypatch):
  rt1 = models.build(RT1Config(
      encoder=MODEL.encoder, image_size=(16, 16), token_width=32, width=8, layers=1, heads=2, head_size=4, window=1),
      rngs=nnx.Rngs(1))
  monkeypatch.setattr(pretrained, 'load_model', lambda path: rt1)
  model = models.build(MODEL, rngs=nnx.Rngs(0))
  report = initialize.start_from(model, 'WEIGHTS')
  theirs, ours = parameters.named(rt1), parameters.named(model)
  shared = [name for name in ours if name.startswith('tokenizer/')]
  for name in shared:
    np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
  assert f'loaded: {len(shared)} variables' in report and 'transformer' not in report.split('left out')[0]
