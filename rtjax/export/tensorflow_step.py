"""The policy step in TensorFlow, for `savedmodel` and `onnx`."""
from typing import Any

import jax
import numpy as np

from rtjax.data.tf import tf
from rtjax.export import tf_ops
from rtjax.export.step import Step, symbolic_batch


class TensorFlowStep:
  """`Step` in TensorFlow ops: (cache, *inputs) -> outputs, for any batch size.

  Attributes:
    variables: the large weights. Expressions of weights alone are computed once.
  """

  def __init__(self, step: Step):
    batch = symbolic_batch()
    shapes = step.shapes(batch)
    closed, self._results = tf_ops.trace(step, step.weights, *shapes)
    self._translation = tf_ops.Translation(closed, batch)
    # int8 weights are variables, so that they stay int8 in the file and are multiplied with their scale in each call.
    self._weights = [tf.Variable(leaf, trainable=False) if leaf.dtype == np.int8 else leaf
                     for leaf in jax.tree.leaves(step.weights)]
    self(*jax.tree.map(lambda shape: tf.zeros((1, *shape.shape[1:]), shape.dtype), shapes))

  @property
  def variables(self) -> list[Any]:
    return [weight for weight in self._weights if tf.is_tensor(weight)] + self._translation.variables

  def __call__(self, cache: dict[str, Any], *inputs: Any) -> dict[str, Any]:
    arguments = [*self._weights, *jax.tree.leaves((cache, inputs))]
    return jax.tree.unflatten(self._results, self._translation(arguments, tf.shape(inputs[0])[0]))
