"""Weights in 8 bits: symmetric, one scale per output channel, by qwix."""
import copy

import jax.numpy as jnp
import numpy as np
import qwix

from rtjax.export.step import Step

# Biases, norms and the like are few and sensitive.
_LEAST = 1024


def quantized(step: Step) -> Step:
  """The same step with matrices and kernels as {'int8': array, 'scale': float32}; `dequantize` multiplies them out."""
  step = copy.copy(step)
  step.weights = {name: _quantized(value) if value.ndim > 1 and value.size >= _LEAST else value
                  for name, value in step.weights.items()}
  return step


def _quantized(value: np.ndarray) -> dict[str, np.ndarray]:
  packed = qwix.quantize(jnp.asarray(value), jnp.int8, channelwise_axes=(value.ndim - 1,))
  return {'int8': np.asarray(packed.qvalue), 'scale': np.asarray(packed.scale)}
