"""Benchmark of compiling the training step of RT-2 on simulated devices.

    python bench/compile_step.py [--preset rt2_5b] [--devices 8] [--mesh 1 -1 1] [--layers 1.0]

Parameters and batch are shapes alone; the mesh is that of --mesh.data, --mesh.fsdp and --mesh.tensor, all fsdp by
default. Prints one line of JSON with seconds of CPU time to trace and to compile, gigabytes of host memory at its peak,
and the number of messages between devices in the program, by kind. A loop over layers holds those of a layer once.
"""
import argparse
import dataclasses
import functools
import importlib
import json
import os
import pathlib
import re
import time
from typing import Any

_KINDS = ('all-gather', 'reduce-scatter', 'all-reduce', 'all-to-all', 'collective-permute')
_COUNTED = ('layers', 'encoder_layers', 'decoder_layers')


def measure(preset: str, layers: float, shape: tuple[int, int, int]) -> dict[str, Any]:
  """Compile the step with this share of the layers."""
  import jax
  from machine import describe

  from rtjax.models import abstract
  from rtjax.training import optimizer as optimizers
  from rtjax.training import sharding
  from rtjax.training.state import create, split
  from rtjax.training.step import train_step
  config = importlib.import_module(f'rtjax.configs.{preset}').config
  model = dataclasses.replace(config.model, backbone=_shallower(config.model.backbone, layers))
  mesh, optimizer = sharding.make_mesh(shape), optimizers.build(config.optimizer, config.steps)
  start = time.process_time()
  graphdef, *trees = split(abstract(model), config.is_trainable)
  state = jax.eval_shape(functools.partial(create, rng=jax.random.key(0), optimizer=optimizer,
                                           ema=config.optimizer.ema_decay > 0), *trees)
  layout = sharding.shardings(state, mesh)
  state = jax.tree.map(_abstract, state, layout)
  share = jax.NamedSharding(mesh, sharding.batch_spec(mesh))
  batch = jax.tree.map(lambda leaf: _abstract(leaf, share), _batch(model, config))
  step = jax.jit(sharding.on_mesh(functools.partial(train_step, graphdef=graphdef, optimizer=optimizer), mesh),
                 donate_argnums=0, out_shardings=(layout, None))
  lowered = step.lower(state, batch)
  traced = time.process_time()
  compiled = lowered.compile()
  text, used = compiled.as_text(), compiled.memory_analysis()
  return {'preset': preset, 'layers': layers, 'mesh': sharding.layout(mesh),
          'trace_seconds': round(traced - start, 1), 'compile_seconds': round(time.process_time() - traced, 1),
          'peak_gb': round(_peak() / 1e9, 2), 'device_gb': round(used.peak_memory_in_bytes / 1e9, 2),
          'messages': {kind: len(re.findall(rf'\b{kind}(-start)?\(', text)) for kind in _KINDS}, 'machine': describe()}


def _shallower(config: Any, share: float) -> Any:
  """Return the configuration with this share of all layers."""
  if not dataclasses.is_dataclass(config) or share == 1:
    return config
  changes: dict[str, Any] = {}
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if dataclasses.is_dataclass(value):
      changes[field.name] = _shallower(value, share)
    elif field.name in _COUNTED:
      changes[field.name] = max(1, round(value * share))
    elif field.name == 'local':
      changes[field.name] = value[:max(1, round(len(value) * share))]
  return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def _batch(model: Any, config: Any) -> Any:
  """Return the shapes of robot windows and texts."""
  import jax
  import numpy as np

  from rtjax.observation import Batch, Observation, TextBatch
  spec, count, texts = model.action_spec, config.batch_size, config.text.batch_size
  numbers = sum(field.size for field in spec.fields)
  shape, image = jax.ShapeDtypeStruct, (*model.image_size, 3)
  lead = (count, model.window)
  observation = Observation(
      shape((*lead, *image), np.uint8), shape(lead, bool), None, shape((count, model.prompt_length), np.int32),
      shape((*lead, model.proprioception_size), np.float32) if model.proprioception_size else None)
  text = TextBatch(shape((texts, *image), np.uint8), shape((texts, model.prompt_length), np.int32),
                   shape((texts, model.answer_length), np.int32), shape((texts,), np.int32),
                   shape((texts, 2), np.int32), shape((texts,), np.int32))
  return Batch(observation, shape((*lead, 1, numbers), np.float32), shape((*lead, 1), bool), text=text)


def _abstract(leaf: Any, sharding: Any) -> Any:
  import jax
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _peak() -> int:
  """Return the most bytes that this process has held."""
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  return 1024 * next(int(line.split()[1]) for line in lines if line.startswith('VmHWM:'))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--preset', default='rt2_5b')
  parser.add_argument('--devices', type=int, default=8)
  parser.add_argument('--mesh', type=int, nargs=3, default=(1, -1, 1), metavar=('DATA', 'FSDP', 'TENSOR'))
  parser.add_argument('--layers', type=float, default=1.0, help='share of the layers, of each stack')
  args = parser.parse_args()
  os.environ['JAX_PLATFORMS'] = 'cpu'
  os.environ['XLA_FLAGS'] = (f'{os.environ.get("XLA_FLAGS", "")} '
                             f'--xla_force_host_platform_device_count={args.devices}')
  print(json.dumps(measure(args.preset, args.layers, tuple(args.mesh))))


if __name__ == '__main__':
  main()
