"""Train a tiny backbone on eight simulated devices; print losses and shapes.

Argument: 'pali', or a family of public_backbones.py.
"""
import functools
import json
import os
import pathlib
import sys

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import AxisType

from helpers import public_backbones
from rtjax import models
from rtjax.models import parameters
from rtjax.models.backbones.pali import PaLIConfig
from rtjax.models.backbones.t5 import T5Config
from rtjax.models.backbones.vit import ViTConfig
from rtjax.models.layers import initializers
from rtjax.training import sharding, state

CONFIG = PaLIConfig(
    vision=ViTConfig(image_size=(16, 16), patch=8, width=32, layers=1, heads=2, mlp_width=128, dropout=0.1),
    text=T5Config(vocab_size=128, width=32, head_size=16, mlp_width=128, encoder_layers=1, decoder_layers=1, heads=4,
                  buckets=8, max_distance=12))


def caption_loss(model, batch, rngs):
  """Loss of answers to prompts about images."""
  image_tokens = model.embed_images(batch['images'], rngs).tokens
  memory = model.prefix(jnp.concatenate([image_tokens, model.embed_text(batch['prompts'])], 1), batch['mask'], rngs)
  inputs = jnp.pad(batch['labels'][:, :-1], ((0, 0), (1, 0)), constant_values=model.config.begin_id)
  logits = model.logits(model.decode(inputs, memory, rngs))
  return optax.softmax_cross_entropy_with_integer_labels(logits, batch['labels']).mean()


def make_batch(config):
  keys = jax.random.split(jax.random.key(0), 4)
  ids = functools.partial(jax.random.randint, minval=1, maxval=128)
  positions = config.image_tokens + 6
  lengths = jax.random.randint(keys[3], (16, 1), config.image_tokens + 1, positions + 1)
  batch = {'images': jax.random.uniform(keys[0], (16, 16, 16, 3), maxval=255), 'prompts': ids(keys[1], (16, 6)),
           'labels': ids(keys[2], (16, 5)), 'mask': jnp.arange(positions) < lengths}
  return {name: jax.device_get(value) for name, value in batch.items()}


def curve(mesh: jax.sharding.Mesh, config, graphdef, params) -> dict:
  """Return losses, norms of gradients, and shapes on a device.

  Two steps of SGD, with dropout.
  """
  layout = sharding.shardings(params, mesh)

  @functools.partial(jax.jit, out_shardings=(layout, None))
  def step(params, batch):
    def loss(params):
      return caption_loss(state.merge(graphdef, params, {}, {}), batch, nnx.Rngs(dropout=1))
    value, grads = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), (value, optax.global_norm(grads))
  params, batch, losses = sharding.place(params, mesh), sharding.place_batch(make_batch(config), mesh), []
  for _ in range(2):
    params, outputs = step(params, batch)
    losses.append([float(value) for value in outputs])
  leaves = parameters.named_leaves(params)
  return {'losses': losses, 'shapes': {
      name: list(leaf.addressable_shards[0].data.shape) for name, leaf in leaves.items()}}


def shares(params) -> dict:
  """Return the largest part of each array that one device holds."""
  return {name: max(shard.data.size for shard in leaf.addressable_shards) / leaf.size
          for name, leaf in parameters.named_leaves(params).items()}


if __name__ == '__main__':
  config = (public_backbones.CONFIGS | {'pali': CONFIG})[sys.argv[1]]
  graphdef, params, *_ = state.split(models.build(config, seed=0))
  one = jax.make_mesh((1, 1, 1), sharding.AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:1])
  curves = {'single': curve(one, config, graphdef, params)}
  mesh = sharding.make_mesh((2, 2, 2))
  with initializers.placed(sharding.spread(mesh)):
    _, drawn, *_ = state.split(models.build(config, seed=0))
  other = [name for name, equal in parameters.named_leaves(jax.tree.map(
      lambda a, b: bool((jax.device_get(a) == jax.device_get(b)).all()), drawn, params)).items() if not equal]
  curves |= {'drawn': shares(drawn), 'other': other}
  curves['split'] = curve(mesh, config, graphdef, drawn)
  print(json.dumps(curves))
