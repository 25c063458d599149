"""Trains a tiny ViT into a tiny T5 split over eight simulated devices; prints losses and sizes as JSON."""
import functools
import json
import os
import pathlib
import sys

os.environ |= {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': '--xla_force_host_platform_device_count=8'}
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import AxisType

from rtjax import models
from rtjax.models.backbones import t5
from rtjax.training import sharding, state

VISION = models.ViTConfig(image_size=(16, 16), patch=8, width=32, layers=1, heads=2, mlp_width=128, dropout=0.1)
TEXT = models.T5Config(vocab_size=128, width=32, head_size=16, mlp_width=128, encoder_layers=1, decoder_layers=1,
                       heads=4, buckets=8, max_distance=12)


class Pali(nnx.Module):
  def __init__(self):
    rngs = nnx.Rngs(0)
    self.vision, self.text = models.ViT(VISION, rngs=rngs), models.T5(TEXT, rngs=rngs)

  def loss(self, batch, rngs):
    text = self.text
    seen = self.vision.patches(self.vision(batch['pixels'], rngs))
    sequence = jnp.concatenate([seen, text.embed(batch['prompts'])], 1)
    memory = text.encode(sequence, batch['mask'], rngs)
    logits = text.logits(text.decode(t5.shift_right(batch['labels']), memory, batch['mask'], rngs))
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch['labels']).mean()


def make_batch():
  keys = jax.random.split(jax.random.key(0), 4)
  ids = functools.partial(jax.random.randint, minval=1, maxval=128)
  lengths = jax.random.randint(keys[3], (16, 1), 5, 11)
  batch = {'pixels': jax.random.uniform(keys[0], (16, 16, 16, 3), minval=-1), 'prompts': ids(keys[1], (16, 6)),
           'labels': ids(keys[2], (16, 5)), 'mask': jnp.arange(10) < lengths}
  return {name: jax.device_get(value) for name, value in batch.items()}


def curve(mesh: jax.sharding.Mesh, graphdef, params) -> dict:
  """Losses and norms of gradients over 2 steps of SGD, with dropout; and how the parameters lie."""
  layout = sharding.shardings(params, mesh)

  @functools.partial(jax.jit, out_shardings=(layout, None))
  def step(params, batch):
    def loss(params):
      return state.merge(graphdef, params, {}, {}).loss(batch, nnx.Rngs(dropout=1))
    value, grads = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), (value, optax.global_norm(grads))
  params, batch, found = sharding.place(params, mesh), sharding.batch_placer(mesh)(make_batch()), []
  for _ in range(2):
    params, outputs = step(params, batch)
    found.append([float(value) for value in outputs])
  held = {name: list(leaf.addressable_shards[0].data.shape) for name, leaf in state.named(params).items()}
  return {'losses': found, 'held': held}


if __name__ == '__main__':
  graphdef, params, *_ = state.split(Pali())
  one = jax.make_mesh((1, 1, 1), sharding.AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:1])
  curves = {'single': curve(one, graphdef, params)}
  curves['split'] = curve(sharding.make_mesh((2, 2, 2)), graphdef, params)
  print(json.dumps(curves))
