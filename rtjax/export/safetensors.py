"""safetensors: policy.safetensors, weights by rtjax's names, for `rtjax.load_model` and `load_policy`.

With int8, a matrix NAME is stored as NAME (int8) and NAME.scale (float32); the value is their product.
"""
import pathlib
from typing import Any

import jax
import numpy as np

from rtjax.export.quantize import quantized
from rtjax.export.step import Step
from rtjax.models import parameters
from rtjax.pretrained import safetensors


def save(step: Step, folder: pathlib.Path, int8: bool) -> None:
  """Write policy.safetensors; its metadata holds the same as policy.json."""
  tensors: dict[str, np.ndarray] = {}
  for name, value in (quantized(step) if int8 else step).weights.items():
    tensors |= {name: value['int8'], f'{name}.scale': value['scale']} if isinstance(value, dict) else {name: value}
  safetensors.write(folder / 'policy.safetensors', parameters.each_layer(tensors), step.metadata)


def load(folder: pathlib.Path, step: Step) -> Any:
  """Return the step with the stored weights: (cache, *inputs) -> outputs."""
  model, metadata = safetensors.load(folder)
  stored = Step(model, step.camera_size, metadata)
  return jax.jit(lambda *inputs: stored(stored.weights, *inputs))
