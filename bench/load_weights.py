"""Benchmark of host memory while a large checkpoint is loaded.

    python bench/load_weights.py [--devices 1 8] [--dtype bfloat16]
    python bench/load_weights.py --run

Writes a T5 1.1 XL (2.85 B parameters, bfloat16) in shards of 2 GB as published on Hugging Face, of zeros that take no
disk, and loads it in a process of its own for each number of simulated devices. Devices of a CPU share the host's
memory, so that `extra_gib`, the peak less what importing and the parameters take, is what loading itself needs. Prints
one line of JSON for each.

With --run, a model is filled by `--init.weights` from a run of rtjax instead: an RT-2 of 0.30 B parameters, 1.2 GB.
"""
import argparse
import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

_XL = {'vocab_size': 32128, 'width': 2048, 'head_size': 64, 'mlp_width': 5120, 'encoder_layers': 24,
       'decoder_layers': 24, 'heads': 32}
_SHARD = 2 * 10 ** 9
_GIB = 2 ** 30


def write_zeros(folder: pathlib.Path) -> None:
  """Write the checkpoint as sparse files."""
  from rtjax.models import abstract, parameters
  from rtjax.models.backbones.t5 import T5Config
  from rtjax.pretrained import huggingface_config, huggingface_layout
  config = T5Config(**_XL)
  written, names = huggingface_config.describe(config)
  variables = parameters.shapes(abstract(config))
  shards: list[dict[str, tuple[int, ...]]] = [{}]
  for tensor, places in sorted(names.items()):
    if sum(map(_bytes, shards[-1].values())) > _SHARD:
      shards.append({})
    shards[-1][tensor] = huggingface_layout.shape_in_file(tensor, places, variables)
  files = [f'model-{i:05}-of-{len(shards):05}.safetensors' for i in range(1, len(shards) + 1)]
  for file, shard in zip(files, shards, strict=True):
    _write_shard(folder / file, shard)
  (folder / 'config.json').write_text(json.dumps(dict(written)))
  (folder / 'model.safetensors.index.json').write_text(json.dumps(
      {'weight_map': {tensor: file for file, shard in zip(files, shards, strict=True) for tensor in shard}}))


def _write_shard(path: pathlib.Path, shapes: dict[str, tuple[int, ...]]) -> None:
  header, end = {}, 0
  for tensor, shape in shapes.items():
    header[tensor] = {'dtype': 'BF16', 'shape': shape, 'data_offsets': [end, end := end + _bytes(shape)]}
  text = json.dumps(header).encode()
  with path.open('wb') as file:
    file.write(len(text).to_bytes(8, 'little') + text)
    file.truncate(8 + len(text) + end)


def _bytes(shape: tuple[int, ...]) -> int:
  return 2 * math.prod(shape)


def measure(folder: str, dtype: str) -> None:
  """Load the folder, sharded over all devices, and print the memory."""
  import jax

  from rtjax.models import parameters
  from rtjax.pretrained import load_huggingface
  from rtjax.training import sharding
  place = sharding.by_name(sharding.make_mesh((1, -1, 1)))
  jax.device_put(0.0).block_until_ready()
  before, start = _status('VmRSS'), time.perf_counter()
  values = parameters.named(load_huggingface(folder, dtype=dtype, sharding=place)).values()
  # Arrays that a device cannot split are on each of them.
  held = sum(shard.data.nbytes for value in values for shard in value.addressable_shards)
  print(json.dumps({
      'devices': jax.device_count(), 'dtype': dtype, 'parameters': sum(value.size for value in values),
      'seconds': round(time.perf_counter() - start, 1), 'before_gib': round(before / _GIB, 2),
      'held_gib': round(held / _GIB, 2), 'largest_gib': round(max(value.nbytes for value in values) / _GIB, 3),
      'peak_gib': round(_status('VmHWM') / _GIB, 2),
      'extra_gib': round((_status('VmHWM') - before - held) / _GIB, 2)}))


def measure_run(folder: pathlib.Path) -> None:
  """Fill a network from a run, and print the memory."""
  import jax
  import jax.numpy as jnp
  import numpy as np
  import orbax.checkpoint as ocp
  from flax import nnx

  from rtjax import checkpoints, models
  from rtjax.models.backbones.pali import PaLIConfig
  from rtjax.models.backbones.t5 import T5Config
  from rtjax.training import initialize
  from rtjax.training.state import split
  config = models.RT2Config(backbone=PaLIConfig(text=T5Config(encoder_layers=2, decoder_layers=2, vocab_size=80000)))
  model = models.abstract(dataclasses.replace(config, backbone=dataclasses.replace(
      config.backbone, vision=dataclasses.replace(config.backbone.vision, layers=6))))
  graphdef, variables = nnx.split(model)
  draw = np.random.default_rng(0)  # zeros would be compressed further than a reader believes
  model = nnx.merge(graphdef, jax.tree.map(
      lambda leaf: jnp.asarray(draw.standard_normal(leaf.shape, leaf.dtype.name)), variables))
  step = folder / 'checkpoints' / '0'
  with ocp.StandardCheckpointer() as writer:
    writer.save(step / 'state', dict(zip(('params', 'batch_stats', 'constants'), split(model)[1:], strict=True)))
  (step / 'metadata').mkdir()
  (step / 'metadata' / 'metadata').write_text(json.dumps({
      'format': checkpoints.FORMAT, 'step': 0, 'config': models.config_to_json(model.config), 'statistics': {},
      'embedding_id': '', 'train': {'pipeline': {'image_size': None, 'views': []}}}))
  pathlib.Path('/proc/self/clear_refs').write_text('5')  # the peak starts again
  before, start = _status('VmRSS'), time.perf_counter()
  initialize.start_from(model, folder)
  held = sum(value.nbytes for value in models.parameters.stored(model).values())
  print(json.dumps({'held_gib': round(held / _GIB, 2), 'seconds': round(time.perf_counter() - start, 1),
                    'before_gib': round(before / _GIB, 2), 'peak_gib': round(_status('VmHWM') / _GIB, 2),
                    'extra_gib': round((_status('VmHWM') - before) / _GIB, 2)}))


def _status(entry: str) -> int:
  """Return bytes of this process; mapped pages of files count."""
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f'{entry}:'))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--devices', type=int, nargs='+', default=[1, 8])
  parser.add_argument('--dtype', default='bfloat16')
  parser.add_argument('--run', action='store_true', help='fill a network from a run of rtjax')
  parser.add_argument('--folder', help='of a checkpoint, to load it in this process')
  args = parser.parse_args()
  if args.folder:
    return measure(args.folder, args.dtype)
  with tempfile.TemporaryDirectory() as folder:
    if args.run:
      return measure_run(pathlib.Path(folder))
    write_zeros(pathlib.Path(folder))
    for devices in args.devices:
      flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={devices}'
      subprocess.run([sys.executable, __file__, '--folder', folder, '--dtype', args.dtype], check=True,
                     env=os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags})


if __name__ == '__main__':
  main()
