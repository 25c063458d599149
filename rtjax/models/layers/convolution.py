"""Convolutions: sums of shifted views for CPUs, XLA's convolution for accelerators.

Depthwise: XLA's grouped convolution is 20 to 50 times slower on a CPU than the same sum over the kernel's k*k taps,
each a shifted view of the image times one weight per channel (figures in bench/RESULTS.md). Automatic differentiation
of the shifts would pad and scatter once per tap, so both gradients are written out: the input's is again one shifted
sum, the kernel's is k*k reductions, computed image by image so that their input stays in the CPU's cache.

Dense with few input channels (an image encoder's first layer): the k*k views side by side, times the kernel as one
matrix. XLA's gradient of that kernel took 0.5 s for 192 images of 64x64 on two cores. With more channels XLA's
convolution is faster: 1.0 against 2.5 ms forward and backward for an image of 24x24x48 on one core.
"""
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]
"""(before, after) of height, and of width."""

_FEW_CHANNELS = 8  # most input channels of a dense convolution that is computed by shifted views


def _sum_over_images(function: Callable[[Array, Array], Array], x: Array, gradient: Array,
                     shape: tuple[int, ...]) -> Array:
  """Sum a function of (image, gradient) over the batch, image by image.

  The devices that split the batch, by the mesh that is set (jax.sharding.use_abstract_mesh), each sum their own images:
  a loop over a split axis would gather the batch on all of them.

  Args:
    shape: of the function's result, float32.
  """
  def total(x: Array, gradient: Array) -> Array:
    def add_image(sums: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
      return sums + function(*pair), None
    return jax.lax.scan(add_image, jnp.zeros(shape), (x, gradient))[0]

  mesh = jax.sharding.get_abstract_mesh()
  blocks = 1 if mesh.empty else mesh.size // mesh.shape.get('tensor', 1)
  if blocks == 1 or len(x) % blocks:
    return total(x, gradient)
  split_x, split_gradient = (a.reshape(blocks, -1, *a.shape[1:]) for a in (x, gradient))
  return jax.vmap(total)(split_x, split_gradient).sum(0)


def patchify(x: Float[Array, 'B H W C'], side: int) -> Float[Array, 'B h w sideC']:
  """Flatten patches of side x side into vectors."""
  batch, height, width, channels = x.shape
  patches = x.reshape(batch, height // side, side, width // side, side, channels).swapaxes(2, 3)
  return patches.reshape(batch, height // side, width // side, side * side * channels)


def _taps(kernel: int) -> list[tuple[int, int]]:
  """Return row and column of every element of a kernel."""
  return [(i, j) for i in range(kernel) for j in range(kernel)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise_conv(x: Float[Array, 'B H W C'], kernel: Float[Array, 'k k C'], stride: int,
                   padding: Padding) -> Float[Array, 'B h w C']:
  """Convolve every channel of `x` with its own k x k kernel."""
  return jax.lax.platform_dependent(
      x, kernel, cpu=functools.partial(_shifted, stride=stride, padding=padding),
      default=functools.partial(_grouped, stride=stride, padding=padding))


@jax.custom_vjp
def pointwise_conv(x: Float[Array, '*b I'], kernel: Float[Array, 'I O']) -> Float[Array, '*b O']:
  """Apply a 1x1 convolution: one matrix product over all pixels."""
  return x @ kernel


def _pointwise_forward(x, kernel):
  return x @ kernel, (x, kernel)


def _pointwise_backward(saved, gradient):
  x, kernel = saved

  def by_image(x: Array, gradient: Array) -> Array:
    # The loop keeps XLA from fusing the gradient's computation with the transposition for the product, which writes
    # column by column: seven times slower (270,000 x 144 on two cores: 65 ms in place of 9).
    def product(image: Array, g: Array) -> Array:
      image, g = (a.reshape(-1, a.shape[-1]) for a in (image, g))
      return jnp.dot(image.T, g, preferred_element_type=jnp.float32)
    return _sum_over_images(product, x, gradient, (x.shape[-1], gradient.shape[-1])).astype(x.dtype)

  def at_once(x: Array, gradient: Array) -> Array:
    pixels = tuple(range(x.ndim - 1))
    return jnp.tensordot(x, gradient, (pixels, pixels))

  return gradient @ kernel.T, jax.lax.platform_dependent(x, gradient, cpu=by_image, default=at_once)


pointwise_conv.defvjp(_pointwise_forward, _pointwise_backward)


def dense_conv(x: Float[Array, 'B H W I'], kernel: Float[Array, 'k k I O'], stride: int,
               padding: Padding) -> Float[Array, 'B h w O']:
  """Apply an ordinary convolution."""
  def views(x: Array, kernel: Array) -> Array:
    padded, k = _pad(x, padding), kernel.shape[0]
    size = _output_size(padded, k, stride)
    columns = jnp.concatenate([_view(padded, tap, size, stride) for tap in _taps(k)], -1)
    return pointwise_conv(columns, kernel.reshape(-1, kernel.shape[-1]))

  def convolution(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding,
                                        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

  if x.shape[-1] > _FEW_CHANNELS:
    return convolution(x, kernel)
  return jax.lax.platform_dependent(x, kernel, cpu=views, default=convolution)


def _grouped(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
  return jax.lax.conv_general_dilated(
      x, kernel[:, :, None, :], (stride, stride), padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=x.shape[-1])


def _pad(x: Array, padding: Padding) -> Array:
  return jnp.pad(x, ((0, 0), *padding, (0, 0)))


def _output_size(padded: Array, kernel: int, stride: int) -> tuple[int, int]:
  return (padded.shape[1] - kernel) // stride + 1, (padded.shape[2] - kernel) // stride + 1


def _view(padded: Array, tap: tuple[int, int], size: tuple[int, int], stride: int) -> Array:
  """Return the input of tap (i, j) at each output position.

  Args:
    padded: height and width are its axes -3 and -2.
    size: height and width of the output.
  """
  rows, columns = (slice(first, first + (count - 1) * stride + 1, stride)
                   for first, count in zip(tap, size, strict=True))
  return padded[..., rows, columns, :]


def _shifted(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
  padded, k = _pad(x, padding), kernel.shape[0]
  size = _output_size(padded, k, stride)
  return functools.reduce(jnp.add, (_view(padded, (i, j), size, stride) * kernel[i, j] for i, j in _taps(k)))


def _input_gradient(gradient: Array, kernel: Array, shape: tuple[int, ...], stride: int, padding: Padding) -> Array:
  """Return the input's gradient: a stride-1 sum with the kernel flipped."""
  k = kernel.shape[0]
  spread = [(0, 0, 0)]
  for axis, (before, _) in enumerate(padding, start=1):
    covered = (gradient.shape[axis] - 1) * stride + 1
    spread.append((k - 1 - before, shape[axis] + before - covered, stride - 1))
  spread.append((0, 0, 0))
  gradient = jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), spread)
  size = (shape[1], shape[2])
  flipped = kernel[::-1, ::-1]
  return functools.reduce(jnp.add, (_view(gradient, (i, j), size, 1) * flipped[i, j] for i, j in _taps(k)))


def _kernel_gradient(x: Array, gradient: Array, kernel: Array, stride: int, padding: Padding) -> Array:
  k, size = kernel.shape[0], (gradient.shape[1], gradient.shape[2])

  def by_tap(image: Array, g: Array) -> Array:
    image, g = image.astype(jnp.float32), g.astype(jnp.float32)
    return jnp.stack([jnp.sum(_view(image, tap, size, stride) * g, (0, 1)) for tap in _taps(k)])

  total = _sum_over_images(by_tap, _pad(x, padding), gradient, (k * k, x.shape[-1]))
  return total.reshape(kernel.shape).astype(kernel.dtype)


def _forward(x, kernel, stride, padding):
  return depthwise_conv(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, saved, gradient):
  x, kernel = saved

  def shifted(x, kernel, gradient):
    return (_input_gradient(gradient, kernel, x.shape, stride, padding),
            _kernel_gradient(x, gradient, kernel, stride, padding))

  def grouped(x, kernel, gradient):
    return jax.vjp(functools.partial(_grouped, stride=stride, padding=padding), x, kernel)[1](gradient)

  return jax.lax.platform_dependent(x, kernel, gradient, cpu=shifted, default=grouped)


depthwise_conv.defvjp(_forward, _backward)
