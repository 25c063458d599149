"""Train a tiny RT-1 on meshes of eight simulated devices, given as 2,2,2; print losses and sizes."""
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
import numpy as np
from jax.sharding import AxisType

from helpers import tiny_training
from rtjax import models
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig, Stage
from rtjax.models.parameters import named_leaves
from rtjax.training import optimizer, replicas, sharding, state
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
  batches = [sharding.place_batch(tiny_training.batch(i, 16, CONFIG, image=20), mesh) for i in range(4)]
  take_step = sharding.on_mesh(functools.partial(train_step, graphdef=graphdef, optimizer=adam, ema_decay=0.9), mesh)
  step = jax.jit(take_step, donate_argnums=0, out_shardings=(layout, None)).lower(current, batches[0]).compile()
  losses = []
  for batch in batches:
    current, outputs = step(current, batch)
    losses.append([float(outputs['loss']), float(outputs['grad_norm'])])
  params = named_leaves(current.params)
  kernel, adam_kernel = (named_leaves(tree)[name] for tree, name in (
      (current, 'params/transformer/layers/0/attention/query/kernel'),
      (current, 'opt_state/1/mu/transformer/layers/0/attention/query/kernel')))
  return {'losses': losses, 'gathers': step.as_text().count(' all-gather('),
          'temporary': step.memory_analysis().temp_size_in_bytes,
          'query': [list(kernel.shape), list(kernel.addressable_shards[0].data.shape)],
          'adam': list(adam_kernel.addressable_shards[0].data.shape), 'total': sum(p.size for p in params.values()),
          'held': sum(p.addressable_shards[0].data.size for p in params.values()),
          'mean': float(named_leaves(current.batch_stats)['image_encoder/encoder/stem_norm/mean'][0])}


def refusal(mesh: jax.sharding.Mesh) -> list[str]:
  """Answers of replicas.require_equal: equal copies, and one that differs on the last device."""
  answers = []
  for change in (0.0, 1e-7):
    spec = jax.sharding.PartitionSpec(*(['fsdp'] if mesh.shape['fsdp'] > 1 else []))
    where = jax.sharding.NamedSharding(mesh, spec)
    parts = [jax.device_put(np.ones(shard, np.float32) + (change if device == mesh.devices[-1, -1, -1] else 0), device)
             for device, shard in ((d, where.shard_shape((8,))) for d in mesh.devices.flat)]
    tree = {'equal': jax.device_put(jax.random.key(3), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())),
            'weights': jax.make_array_from_single_device_arrays((8,), where, parts)}
    try:
      answers.append(str(replicas.require_equal(tree, mesh, 'step 3')))
    except replicas.ReplicasDifferError as error:
      answers.append(str(error))
  return answers


INITIAL = state.split(models.build(CONFIG, seed=0))

if __name__ == '__main__':
  one = jax.make_mesh((1, 1, 1), sharding.AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:1])
  found = {'single': curve(one)}
  for mesh in sys.argv[1:]:
    found[mesh] = curve(sharding.make_mesh(tuple(map(int, mesh.split(',')))))
  found['copies'] = [refusal(sharding.make_mesh(shape)) for shape in ((4, 1, 2), (1, 4, 2))]
  print(json.dumps(found))
