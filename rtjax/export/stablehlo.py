"""StableHLO by jax.export: policy.stablehlo, for CPUs, CUDA and TPUs, with weights inside and any batch size.

    program = jax.export.deserialize(open('policy.stablehlo', 'rb').read())     # needs jax and nothing of rtjax
    out = program.call(history, images, embeddings)

A network that looks at the robot's state takes it as a fourth argument. history.npz holds what a robot starts from. The
program is no archive: jax promises to read it for six months.
"""
import pathlib
from typing import Any

import jax
from jax import export

from rtjax.export.quantize import quantized
from rtjax.export.step import Step, save_history, symbolic_batch

PLATFORMS = ('cpu', 'cuda', 'tpu')


def save(step: Step, folder: pathlib.Path, int8: bool) -> None:
  """Writes policy.stablehlo and history.npz; with `int8`, the weights inside are 8 bits wide."""
  step = quantized(step) if int8 else step
  program = export.export(jax.jit(lambda *inputs: step(step.weights, *inputs)), platforms=PLATFORMS)(
      *step.shapes(symbolic_batch()))
  (folder / 'policy.stablehlo').write_bytes(program.serialize())
  save_history(step, folder)


def load(folder: pathlib.Path, step: Step) -> Any:
  """The program: (history, *inputs) -> outputs, as `Step` names them."""
  program = export.deserialize(bytearray((folder / 'policy.stablehlo').read_bytes()))
  return jax.jit(program.call)
