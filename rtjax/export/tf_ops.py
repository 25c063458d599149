"""Translation of a traced JAX function to plain TensorFlow ops.

The result runs in any TensorFlow 2, and tf2onnx reads it.

`jax2tf` wraps a program in XlaCallModule instead: older TensorFlow (2.15, the last with tf_agents) cannot read today's
programs, and every process that loads one compiles for a minute. The models use about forty primitives, most of which
are one op each. Expressions of weights alone are computed once, at translation. If code differs by platform
(`jax.lax.platform_dependent`), the branch for other platforms than XLA's CPU is taken: grouped convolutions, which
TensorFlow, onnxruntime and TensorRT have kernels for.
"""
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from rtjax.data.tf import tf

Tensor = Any  # tf.Tensor, or np.ndarray for values known at translation

_INLINED = {'jit': 'jaxpr', 'custom_vjp_call': 'call_jaxpr', 'custom_jvp_call': 'call_jaxpr', 'remat2': 'jaxpr'}
# Larger constants become variables: a graph that holds them loads slowly, and cannot exceed 2 GB.
_MAX_CONSTANT = 1024

_ELEMENTWISE: dict[str, Callable] = {
    'abs': tf.abs, 'add': tf.add, 'and': tf.logical_and, 'copy': tf.identity, 'div': tf.divide, 'eq': tf.equal,
    'erf': tf.math.erf, 'exp': tf.exp, 'ge': tf.greater_equal, 'gt': tf.greater, 'le': tf.less_equal,
    'log': tf.math.log, 'logistic': tf.sigmoid, 'lt': tf.less, 'max': tf.maximum, 'min': tf.minimum, 'mul': tf.multiply,
    'ne': tf.not_equal, 'neg': tf.negative, 'not': tf.logical_not, 'or': tf.logical_or, 'rsqrt': tf.math.rsqrt,
    'sqrt': tf.sqrt, 'square': tf.square, 'stop_gradient': tf.identity, 'sub': tf.subtract, 'tanh': tf.tanh,
    'clamp': lambda low, x, high: tf.minimum(tf.maximum(x, low), high),
    'select_n': lambda which, no, yes: tf.where(which, yes, no)}


class Translation:
  """Interpreter of a jaxpr on TensorFlow tensors.

  Call it eagerly before a tf.function does, because the first call creates the variables.

  Args:
    closed: traced with a symbolic first axis, or with none.
    batch: the symbolic dimension.

  Attributes:
    variables: the large constants, in the order of their use.
  """

  def __init__(self, closed: core.ClosedJaxpr, batch: Any):
    self._closed, self._batch = closed, batch
    self._variables: dict[int, tuple[np.ndarray, Any]] = {}  # by id of the array, which is kept so that its id stays
    # Results of equations that depend on constants alone; every call evaluates these in the same order.
    self._constants: list[list[np.ndarray]] = []
    self._constant_index = 0

  @property
  def variables(self) -> list[Any]:
    return [variable for _, variable in self._variables.values()]

  def __call__(self, arguments: Sequence[Tensor], size: Tensor) -> list[Tensor]:
    """Return the jaxpr's results, broadcast to their full shapes.

    Args:
      arguments: one per input; NumPy arrays are constants.
      size: batch size, a scalar.
    """
    self._constant_index = 0
    results = self._run(self._closed.jaxpr, self._closed.consts, arguments, size)
    return [self._full(result, variable.aval, size)
            for result, variable in zip(results, self._closed.jaxpr.outvars, strict=True)]

  def _run(self, jaxpr: core.Jaxpr, constants: Sequence[Any], arguments: Sequence[Tensor],
           size: Tensor) -> list[Tensor]:
    values: dict[Any, Tensor] = dict(zip(jaxpr.constvars, map(np.asarray, constants), strict=True))
    values |= zip(jaxpr.invars, arguments, strict=True)
    def read(variable: Any) -> Tensor:
      return np.asarray(variable.val) if isinstance(variable, core.Literal) else values[variable]
    for equation in jaxpr.eqns:
      results = self._equation(equation, [read(variable) for variable in equation.invars], size)
      values.update(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in jaxpr.outvars]

  def _equation(self, equation: Any, inputs: list[Tensor], size: Tensor) -> list[Tensor]:
    name, parameters = equation.primitive.name, equation.params
    if name in _INLINED:
      inner = parameters[_INLINED[name]]
      jaxpr, constants = (inner.jaxpr, inner.consts) if isinstance(inner, core.ClosedJaxpr) else (inner, ())
      return self._run(jaxpr, constants, inputs, size)
    if name == 'platform_index':
      return [np.int32(next(i for i, platforms in enumerate(parameters['platforms']) if platforms is None))]
    if name == 'cond' and isinstance(inputs[0], np.ndarray | np.generic):
      branch = parameters['branches'][int(np.clip(inputs[0], 0, len(parameters['branches']) - 1))]
      return self._run(branch.jaxpr, branch.consts, inputs[1:], size)
    static = all(isinstance(n, int) for variable in equation.outvars for n in variable.aval.shape)
    if static and not any(tf.is_tensor(value) for value in inputs):
      self._constant_index += 1
      if self._constant_index > len(self._constants):
        inputs = [np.broadcast_to(v, variable.aval.shape) for v, variable in zip(inputs, equation.invars, strict=True)]
        self._constants.append(list(map(np.asarray, _as_list(equation.primitive.bind(*inputs, **parameters)))))
      return self._constants[self._constant_index - 1]
    inputs = [self._as_variable(value) for value in inputs]
    if name in _ELEMENTWISE:
      return [_ELEMENTWISE[name](*inputs)]
    if name not in _OPS:
      raise NotImplementedError(f'the network uses the JAX primitive {name!r}, which has no translation in '
                                f'{__name__}: add one to _OPS there.')
    if name not in _NO_BROADCAST:
      inputs = [self._full(v, variable.aval, size) for v, variable in zip(inputs, equation.invars, strict=True)]
    return _as_list(_OPS[name](parameters, *inputs))

  def _as_variable(self, value: Tensor) -> Tensor:
    """Replace a large float32 constant by a variable's value."""
    if not isinstance(value, np.ndarray) or value.size <= _MAX_CONSTANT or value.dtype != np.float32:
      return value
    if id(value) not in self._variables:
      self._variables[id(value)] = value, tf.Variable(value, trainable=False)
    return tf.convert_to_tensor(self._variables[id(value)][1])

  def _full(self, value: Tensor, aval: Any, size: Tensor) -> Tensor:
    """Broadcast a tensor to its shape in JAX."""
    shape = tuple(value.shape)
    if all(n == 1 or m != 1 for n, m in zip(aval.shape, shape, strict=True)):
      return value
    return tf.broadcast_to(value, [self._dimension(n, size) for n in aval.shape])

  def _dimension(self, n: Any, size: Tensor) -> Any:
    if isinstance(n, int):
      return n
    if n == self._batch:
      return size
    raise NotImplementedError(f'a broadcast to a dimension of {n}: only the batch size is supported.')


def _as_list(results: Any) -> list[Tensor]:
  return list(results) if isinstance(results, list | tuple) else [results]


def _sizes(shape: Sequence[Any]) -> list[int]:
  """Return the shape for tf.reshape, -1 where it depends on the batch."""
  return [n if isinstance(n, int) else -1 for n in shape]


def _broadcast_in_dim(parameters: Any, x: Tensor) -> Tensor:
  """Move the axes only; `_full` broadcasts where an op does not."""
  axes = dict(zip(parameters['broadcast_dimensions'], x.shape, strict=True))
  sizes = [axes.get(axis, 1) for axis in range(len(parameters['shape']))]
  return tf.reshape(x, [-1 if n is None else n for n in sizes]) if len(sizes) != len(x.shape) else x


def _slice(parameters: Any, x: Tensor) -> Tensor:
  strides = parameters['strides'] or (1,) * len(x.shape)
  return x[tuple(slice(start, limit if isinstance(limit, int) else None, stride) for start, limit, stride in zip(
      parameters['start_indices'], parameters['limit_indices'], strides, strict=True))]


def _pad(parameters: Any, x: Tensor, value: Tensor) -> Tensor:
  if any(low < 0 or high < 0 or inner for low, high, inner in parameters['padding_config']):
    raise NotImplementedError(f'padding of {parameters["padding_config"]}: only padding around an array is supported.')
  return tf.pad(x, [(low, high) for low, high, _ in parameters['padding_config']], constant_values=value.item())


def _dot_general(parameters: Any, x: Tensor, y: Tensor) -> Tensor:
  """Compute one matrix product of [batch, free, summed] and [batch, summed, free]."""
  (x_summed, y_summed), (x_batch, y_batch) = parameters['dimension_numbers']
  x_free = [axis for axis in range(len(x.shape)) if axis not in (*x_summed, *x_batch)]
  y_free = [axis for axis in range(len(y.shape)) if axis not in (*y_summed, *y_batch)]
  lead = [x.shape[axis] for axis in x_batch]
  result = [*lead, *(x.shape[axis] for axis in x_free), *(y.shape[axis] for axis in y_free)]
  count = _product(x, x_summed)
  if len(x.shape) == 4 and len(y.shape) == 2 and x_summed == (3,) and y_summed == (0,):
    return tf.nn.conv2d(x, y[None, None], 1, 'VALID')  # runtimes fuse a pointwise convolution with the ops after it
  left = _reshape(_transpose(x, [*x_batch, *x_free, *x_summed]), [*lead, _product(x, x_free), count])
  right = _reshape(_transpose(y, [*y_batch, *y_summed, *y_free]), [*lead, count, _product(y, y_free)])
  return _reshape(tf.matmul(left, right), result)


def _transpose(x: Tensor, order: list[int]) -> Tensor:
  return x if order == list(range(len(order))) else tf.transpose(x, order)


def _reshape(x: Tensor, shape: Sequence[int | None]) -> Tensor:
  return tf.reshape(x, [-1 if n is None else n for n in shape]) if tuple(shape) != tuple(x.shape) else x


def _product(x: Tensor, axes: Sequence[int]) -> int | None:
  """Return the number of elements along axes; None with the batch."""
  sizes = [x.shape[axis] for axis in axes]
  return None if None in sizes else math.prod(sizes)


def _convolution(parameters: Any, x: Tensor, kernel: Tensor) -> Tensor:
  numbers, groups = parameters['dimension_numbers'], parameters['feature_group_count']
  channels = x.shape[-1]
  if numbers.lhs_spec != (0, 3, 1, 2) or numbers.rhs_spec != (3, 2, 0, 1) or groups not in (1, channels):
    raise NotImplementedError(f'a convolution of layout {numbers} in {groups} groups is not supported: expected NHWC '
                              'and HWIO, dense or depthwise.')
  strides = parameters['window_strides']
  x = tf.pad(x, [(0, 0), *parameters['padding'], (0, 0)]) if any(map(any, parameters['padding'])) else x
  if groups == 1:
    return tf.nn.conv2d(x, kernel, strides, 'VALID')
  return tf.nn.depthwise_conv2d(x, tf.transpose(kernel, (0, 1, 3, 2)), (1, *strides, 1), 'VALID')


def _gather(parameters: Any, x: Tensor, indices: Tensor) -> Tensor:
  """Gather along one axis, per example or not; indices are in bounds."""
  numbers = parameters['dimension_numbers']
  if not numbers.collapsed_slice_dims and isinstance(indices, np.ndarray) and indices.ndim == 1:
    slices = [slice(None)] * len(x.shape)  # x[..., a:b, c:d] where x has a symbolic axis
    for axis, start in zip(numbers.start_index_map, indices.tolist(), strict=True):
      slices[axis] = slice(start, start + parameters['slice_sizes'][axis])
    return x[tuple(slices)]
  batch, axes = len(numbers.operand_batching_dims), numbers.start_index_map
  rank = len(indices.shape) - 1
  output_axes = [axis for axis in range(len(x.shape) - 1 + rank - batch) if axis not in numbers.offset_dims]
  if (len(axes) != 1 or numbers.collapsed_slice_dims != axes
      or (*numbers.operand_batching_dims, *numbers.start_indices_batching_dims) != (*range(batch), *range(batch))
      or output_axes != [*range(batch), *range(axes[0], axes[0] + rank - batch)]):
    raise NotImplementedError(f'a gather of {numbers} is not supported: expected entries along one axis.')
  return tf.gather(x, tf.squeeze(indices, -1), axis=axes[0], batch_dims=batch)


def _iota(parameters: Any) -> Tensor:
  shape, axis = parameters['shape'], parameters['dimension']
  return tf.constant(np.arange(shape[axis], dtype=parameters['dtype']).reshape(
      [shape[axis] if i == axis else 1 for i in range(len(shape))]))


def _reduction(op: Callable) -> Callable:
  return lambda parameters, x: op(x, axis=parameters['axes'])


_OPS: dict[str, Callable] = {
    'argmax': lambda p, x: tf.argmax(x, p['axes'][0], output_type=p['index_dtype']),
    'broadcast_in_dim': _broadcast_in_dim,
    'concatenate': lambda p, *parts: tf.concat(parts, p['dimension']),
    'conv_general_dilated': _convolution,
    'convert_element_type': lambda p, x: tf.cast(x, p['new_dtype']),
    'dot_general': _dot_general,
    'gather': _gather,
    'integer_pow': lambda p, x: tf.pow(x, tf.constant(p['y'], x.dtype)),
    'iota': _iota,
    'pad': _pad,
    'reduce_and': _reduction(tf.reduce_all),
    'reduce_max': _reduction(tf.reduce_max),
    'reduce_min': _reduction(tf.reduce_min),
    'reduce_or': _reduction(tf.reduce_any),
    'reduce_sum': _reduction(tf.reduce_sum),
    'reshape': lambda p, x: tf.reshape(x, _sizes(p['new_sizes'])),
    'slice': _slice,
    'split': lambda p, x: tf.split(x, p['sizes'], p['axis']),
    'stack': lambda p, *parts: tf.stack(parts, p['axis']),
    'squeeze': lambda p, x: tf.squeeze(x, p['dimensions']),
    'transpose': lambda p, x: tf.transpose(x, p['permutation'])}
# Primitives that also work on inputs whose axes of size 1 were not broadcast.
_NO_BROADCAST = ('broadcast_in_dim', 'convert_element_type', 'integer_pow', 'squeeze', 'transpose')


def trace(function: Callable, *arguments: Any) -> tuple[core.ClosedJaxpr, Any]:
  """Return the jaxpr for these shapes or arrays, and the results' structure."""
  closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
  return closed, jax.tree.structure(shapes)
