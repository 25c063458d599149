"""StableHLO by jax.export: policy.stablehlo, for CPU, CUDA and TPU.

    from jax import export
    program = export.deserialize(bytearray(open('policy.stablehlo', 'rb').read()))   # needs jax, not rtjax
    out = program.call(cache, images, embeddings)

The program includes the weights and takes any batch size. Its arguments are those of `Step` after the weights.
cache.npz holds the cache before the first frame. The file is not an archive: jax promises to read it for six months.
"""
import pathlib
from typing import Any

import jax
from jax import export

from rtjax.export.quantize import quantized
from rtjax.export.step import Step, save_cache, symbolic_batch

PLATFORMS = ('cpu', 'cuda', 'tpu')


def save(step: Step, folder: pathlib.Path, int8: bool) -> None:
  """Write policy.stablehlo and cache.npz; with `int8`, the weights inside are int8."""
  step = quantized(step) if int8 else step
  program = export.export(jax.jit(lambda *inputs: step(step.weights, *inputs)), platforms=PLATFORMS)(
      *step.shapes(symbolic_batch()))
  (folder / 'policy.stablehlo').write_bytes(program.serialize())
  save_cache(step, folder)


def load(folder: pathlib.Path, step: Step) -> Any:
  """Return the program: (cache, *inputs) -> outputs of `Step`."""
  program = export.deserialize(bytearray((folder / 'policy.stablehlo').read_bytes()))
  return jax.jit(program.call)
