"""The policy step as a TensorFlow function; what `savedmodel` and `onnx` start from."""
from typing import Any

import jax
import numpy as np

from rtjax.data.tf import tf
from rtjax.export import tf_ops
from rtjax.export.step import Step, symbolic_batch


class TensorFlowStep:
  """Called with (history, *inputs), gives what `Step` gives, in TensorFlow ops; any batch size.

  Attributes:
    variables: the weights, as far as they are large; what depends on weights alone is multiplied out.
  """

  def __init__(self, step: Step):
    batch = symbolic_batch()
    shapes = step.shapes(batch)
    closed, self._results = tf_ops.trace(step, step.weights, *shapes)
    self._translation = tf_ops.Translation(closed, batch)
    # 8-bit weights stay so: as variables, they are multiplied out in each call.
    self._weights = [tf.Variable(leaf, trainable=False) if leaf.dtype == np.int8 else leaf
                     for leaf in jax.tree.leaves(step.weights)]
    self(*jax.tree.map(lambda shape: tf.zeros((1, *shape.shape[1:]), shape.dtype), shapes))

  @property
  def variables(self) -> list[Any]:
    return [weight for weight in self._weights if tf.is_tensor(weight)] + self._translation.variables

  def __call__(self, history: dict[str, Any], *inputs: Any) -> dict[str, Any]:
    arguments = [*self._weights, *jax.tree.leaves((history, inputs))]
    return jax.tree.unflatten(self._results, self._translation(arguments, tf.shape(inputs[0])[0]))
