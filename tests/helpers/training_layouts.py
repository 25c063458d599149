"""Train a tiny RT-1 on eight simulated devices; print losses and sizes."""
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
from jax.sharding import AxisType

from helpers import tiny_training
from rtjax import models
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig, Stage
from rtjax.models.parameters import named_leaves
from rtjax.training import optimizer, sharding, state
from rtjax.training.step import train_step

CONFIG = models.RT1Config(
    action_spec=tiny_training.SPEC, window=2, image_size=(16, 16), image_tokens=2, token_width=32, width=64, layers=1,
    heads=2, head_size=16, encoder=EfficientNetConfig(width=0.25, depth=0.25, stages=(
        Stage(3, 1, 16, 1, 1), Stage(3, 1, 24, 6, 2))))


def curve(mesh: jax.sharding.Mesh) -> dict:
  """Losses of 4 steps with dropout and batch statistics, and parameter layout."""
  adam = optimizer.build(optimizer.OptimizerConfig(learning_rate=1e-3, warmup_steps=0), 100)
  graphdef, *trees = INITIAL
  make = functools.partial(state.create, rng=jax.random.key(1), optimizer=adam, ema=True)
  layout = sharding.shardings(jax.eval_shape(make, *trees), mesh)
  current = jax.jit(make, out_shardings=layout)(*[sharding.place(tree, mesh) for tree in trees])
  step = jax.jit(functools.partial(train_step, graphdef=graphdef, optimizer=adam, ema_decay=0.9),
                 donate_argnums=0, out_shardings=(layout, None))
  losses = []
  for i in range(4):
    batch = sharding.place_batch(tiny_training.batch(i, 16, CONFIG, image=20), mesh)
    current, outputs = step(current, batch)
    losses.append([float(outputs['loss']), float(outputs['grad_norm'])])
  params = named_leaves(current.params)
  kernel, adam_kernel = (named_leaves(tree)[name] for tree, name in (
      (current, 'params/transformer/layers/0/attention/query/kernel'),
      (current, 'opt_state/1/mu/transformer/layers/0/attention/query/kernel')))
  return {'losses': losses, 'query': [list(kernel.shape), list(kernel.addressable_shards[0].data.shape)],
          'adam': list(adam_kernel.addressable_shards[0].data.shape), 'total': sum(p.size for p in params.values()),
          'held': sum(p.addressable_shards[0].data.size for p in params.values()),
          'mean': float(named_leaves(current.batch_stats)['image_encoder/encoder/stem_norm/mean'][0])}


INITIAL = state.split(models.build(CONFIG, seed=0))

if __name__ == '__main__':
  one = jax.make_mesh((1, 1, 1), sharding.AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:1])
  found = {'single': curve(one)}
  for shape in ((8, 1, 1), (1, 8, 1), (2, 2, 2)):
    found[str(shape)] = curve(sharding.make_mesh(shape))
  print(json.dumps(found))
