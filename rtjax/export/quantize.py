"""Symmetric 8-bit quantisation of weights, one scale per output channel."""
import copy

import jax.numpy as jnp
import numpy as np
import qwix

from rtjax.export.step import Step
from rtjax.models.layers.layer_stack import is_stacked

# Smaller arrays (biases, norms) save little space and are sensitive.
_MIN_SIZE = 1024


def quantized(step: Step) -> Step:
  """Return the step with matrices and kernels as {'int8': array, 'scale': float32}."""
  step = copy.copy(step)
  step.weights = {name: _quantize(value, is_stacked(name)) for name, value in step.weights.items()}
  return step


def _quantize(value: np.ndarray, stacked: bool) -> np.ndarray | dict[str, np.ndarray]:
  """Quantise a weight; stacked layers each as it would be alone."""
  if value.ndim - stacked <= 1 or value.size // (len(value) if stacked else 1) < _MIN_SIZE:
    return value
  packed = qwix.quantize(jnp.asarray(value), jnp.int8, channelwise_axes=(*range(stacked), value.ndim - 1))
  return {'int8': np.asarray(packed.qvalue), 'scale': np.asarray(packed.scale)}
