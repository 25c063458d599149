"""Symmetric 8-bit quantisation of weights, one scale per output channel."""
import copy

import jax.numpy as jnp
import numpy as np
import qwix

from rtjax.export.step import Step

# Smaller arrays (biases, norms) save little space and are sensitive.
_MIN_SIZE = 1024


def quantized(step: Step) -> Step:
  """Return the step with matrices and kernels as {'int8': array, 'scale': float32}."""
  step = copy.copy(step)
  step.weights = {name: _quantize(value) if value.ndim > 1 and value.size >= _MIN_SIZE else value
                  for name, value in step.weights.items()}
  return step


def _quantize(value: np.ndarray) -> dict[str, np.ndarray]:
  packed = qwix.quantize(jnp.asarray(value), jnp.int8, channelwise_axes=(value.ndim - 1,))
  return {'int8': np.asarray(packed.qvalue), 'scale': np.asarray(packed.scale)}
