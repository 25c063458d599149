"""Model and data of a few numbers, with the interfaces of the real ones."""
import dataclasses
import time
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from rtjax import actions
from rtjax.data import to_batch
from rtjax.models import LossTerms, PolicyConfig, PolicyModel, register
from rtjax.models.base import Dtype, Padding
from rtjax.models.layers.common import BatchNorm, Constant, dropout
from rtjax.observation import Batch
from rtjax.training.config import CheckpointConfig, LoggingConfig, TrainConfig, ValidationConfig
from rtjax.training.optimizer import OptimizerConfig

SPEC = actions.ActionSpec((actions.ActionField('move', 2, bins=4), actions.ActionField('grip', 1, 0.0, bins=4)), 4)


@dataclasses.dataclass(frozen=True)
class TinyConfig(PolicyConfig):
  action_spec: actions.ActionSpec = SPEC
  window: int = 2
  horizon: int = 1
  padding: Padding = 'back'
  embedding_size: int = 512
  width: int = 64
  batch_norm: bool = True
  dropout: float = 0.1
  dtype: Dtype = 'float32'


@register('tiny', TinyConfig)
class TinyModel(PolicyModel):
  """Two layers on the mean colour and the instruction of each frame."""
  config: TinyConfig

  def __init__(self, config: TinyConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.shift = Constant(jnp.full(3, 127.5))
    self.layers = nnx.List([nnx.Linear(3 + 512, config.width, rngs=rngs), nnx.Linear(config.width, 128, rngs=rngs)])
    self.norm = BatchNorm(config.width) if config.batch_norm else None
    out = config.horizon * config.action_spec.num_tokens * config.action_spec.vocab_size
    self.output = nnx.Linear(128, out, rngs=rngs)

  def logits(self, observation, *, train=False, rngs=None):
    dtype = jnp.dtype(self.config.dtype)
    pixels = (observation.images.astype(jnp.float32).mean((2, 3)) - self.shift[...]) / 127.5
    x = self.layers[0](jnp.concatenate([pixels, observation.instruction], -1).astype(dtype))
    x = x if self.norm is None else self.norm(x, train)
    x = dropout(jax.nn.relu(x), self.config.dropout, rngs)
    x = self.output(jax.nn.relu(self.layers[1](x))).astype(jnp.float32)
    return x.reshape(*x.shape[:2], -1, self.config.action_spec.vocab_size)

  def loss(self, batch, *, train, rngs=None):
    observation, recorded, mask = batch.windows()
    labels = self.config.action_spec.tokenize(recorded)
    labels = labels.reshape(*labels.shape[:2], -1)
    logits = self.logits(observation, train=train, rngs=rngs)
    counted = jnp.repeat(mask, self.config.action_spec.num_tokens, -1).astype(jnp.float32)
    correct = (jnp.argmax(logits, -1) == labels) * counted
    total = jnp.sum(optax.softmax_cross_entropy_with_integer_labels(logits, labels) * counted)
    metrics = {'accuracy': (correct.sum(), counted.sum())}
    if not train:
      metrics['accuracy_per_token'] = correct.sum((0, 1)), counted.sum((0, 1))
    return LossTerms(total, counted.sum(), metrics)

  def init_cache(self, batch_size):
    return jnp.zeros((batch_size, 0))  # a frame's logits depend on no other frame

  def step(self, cache, observation):
    return cache, self.logits(observation)[:, 0]


def arrays(seed: int, size: int, config: PolicyConfig = TinyConfig(), image: int = 8) -> dict[str, np.ndarray]:
  """Learnable windows, as a stream of rtjax.data yields them.

  The action is the mean colour. A quarter of the targets does not count.
  """
  rng = np.random.default_rng(seed)
  colour = rng.integers(0, 256, (size, config.window, 1, 1, 3))
  images = np.broadcast_to(colour, (size, config.window, image, image, 3)).astype(np.uint8)
  numbers = np.resize(colour[:, :, 0, 0], (size, config.window, config.action_spec.size)) / 127.5 - 1
  recorded = np.repeat(numbers[:, :, None], config.horizon, 2).astype(np.float32)
  mask = rng.random((size, config.window, config.horizon)) > 0.25
  mask[0] = True
  return {'images': images, 'instruction': rng.normal(size=(size, config.window, 512)).astype(np.float32) / 22,
          'actions': recorded, 'action_mask': mask, 'frame_mask': np.ones((size, config.window), bool),
          'instructions': np.array(['go'] * size, object)}


def batch(seed: int, size: int, config: PolicyConfig = TinyConfig(), image: int = 8) -> Batch:
  """The typed batch of `arrays`."""
  return to_batch(arrays(seed, size, config, image))


class Stream:
  """Stream whose batch i is a function of seed, process and i."""

  def __init__(self, datasets, config, action_spec, *, window, horizon, padding, batch_size, seed, process_index=0,
               process_count=1, rows=None):
    made = TinyConfig(action_spec=action_spec, window=window, horizon=horizon)
    rows = slice(rows.start, rows.stop) if rows else slice(None)
    self._make = lambda i: {name: array[rows] for name, array in arrays(
        seed + 1000 * i + process_index, batch_size, made).items()}
    self._next, self._broken = 0, 'nan' in datasets

  def __next__(self):
    self._next += 1
    made = self._make(self._next)
    if self._broken and self._next == 4:
      made['instruction'][0] = np.finfo(np.float32).max  # finite; the loss is not
    return made

  def state(self):
    return {'next': self._next}

  def restore(self, state):
    self._next = state['next']

  def close(self):
    pass


class SlowStream(Stream):
  """Leaves a run time to be killed in."""

  def __next__(self):
    time.sleep(0.02)
    return super().__next__()


def validation_batches(datasets, config, action_spec, *, window, horizon, padding, batch_size, process_index=0,
                       process_count=1):
  made = TinyConfig(action_spec=action_spec, window=window, horizon=horizon)
  return (arrays(10 ** 6 + 10 * i + process_index, batch_size, made) for i in range(2))


def statistics(datasets, config, action_spec):
  return {name: {'embedding_id': 'universal-sentence-encoder-large/5'} for name in datasets}


def data(stream: type = Stream) -> types.SimpleNamespace:
  return types.SimpleNamespace(TrainingStream=stream, validation_batches=validation_batches, statistics=statistics)


def config(output: Any, **changes: Any) -> TrainConfig:
  """A run of a few seconds."""
  given = {'data': ('colours',), 'output': str(output), 'steps': 4, 'batch_size': 16,
           'logging': LoggingConfig(every=1, tensorboard=False), 'checkpoints': CheckpointConfig(every=2),
           'validation': ValidationConfig(every=2), 'model': TinyConfig(),
           'optimizer': OptimizerConfig(learning_rate=1e-2, warmup_steps=2)}
  return TrainConfig(**given | changes)
