"""Low-rank adapters (LoRA, Hu et al. 2021).

y = x W + (alpha / rank) x A B, where only A and B are trained. B starts as zeros, so that an adapted network computes
the same as before. `merged_kernels` adds A B to W.

qwix, which adapts Flax models too, rewrites one method of an NNX model ("Only one method is supported for nnx models").
RT-2 is entered by several: `loss`, `step`, `generate`. Here the layers themselves are adapted and keep their names, so
that checkpoints and Hugging Face weights load into a network with or without adapters.
"""
import dataclasses
import math
import re
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from rtjax.models.layers import initializers
from rtjax.models.layers.layer_stack import is_stacked, layer_name
from rtjax.runtime.flags import Hidden


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Layers with adapters, and the size of these.

  Attributes:
    rank: width of the adapters; 0 = none.
    alpha: factor of the adapters, in units of 1 / rank: with alpha = rank they are added unscaled.
    targets: pattern of the names of linear layers, such as 'backbone/text/encoder/layers/0/attention/query'.
  """
  rank: int = 0
  alpha: Hidden[float] = 16.0
  targets: Hidden[str] = r'(query|value)$'

  def __post_init__(self) -> None:
    if self.rank < 0:
      raise ValueError(f'lora.rank is {self.rank}, it must be 0 (no adapters) or more.')
    try:
      re.compile(self.targets)
    except re.error as error:
      raise ValueError(f'lora.targets is {self.targets!r}, which is no regular expression: {error}.') from error


class _Adapter(nnx.Module):
  """Base of the adapted layers.

  Attributes:
    lora_a, lora_b: A [inputs, rank] and B [rank, outputs], of stacked layers [L, inputs, rank] and [L, rank, outputs];
      a kernel of more axes counts as a matrix.
    lora_inputs: number of axes of the kernel that are inputs.
    lora_scale: alpha / rank.
  """
  kernel: nnx.Param
  lora_a: nnx.Param
  lora_b: nnx.Param
  lora_inputs: int
  lora_scale: float

  def __call__(self, x: Array) -> Array:
    y = super().__call__(x)  # type: ignore[misc]
    flat = x.reshape(*x.shape[:x.ndim - self.lora_inputs], -1).astype(y.dtype)
    added = flat @ self.lora_a[...].astype(y.dtype) @ self.lora_b[...].astype(y.dtype)
    return y + self.lora_scale * added.reshape(y.shape)


class AdaptedLinear(_Adapter, nnx.Linear):  # type: ignore[misc]
  """nnx.Linear with an adapter."""


class AdaptedLinearGeneral(_Adapter, nnx.LinearGeneral):  # type: ignore[misc]
  """nnx.LinearGeneral with an adapter."""


_ADAPTED: dict[type[nnx.Module], type[_Adapter]] = {
    nnx.Linear: AdaptedLinear, nnx.LinearGeneral: AdaptedLinearGeneral}


def adapt(model: nnx.Module, config: LoraConfig, *, rngs: nnx.Rngs) -> None:
  """Adapt, in place, the linear layers that `config` names.

  Raises:
    ValueError: it names none.
  """
  if not config.rank:
    return
  linear = {name: layer for name, layer in _named_modules(model).items() if isinstance(layer, tuple(_ADAPTED))}
  targets = {name: layer for name, layer in linear.items() if _is_target(name, layer, config)}
  if not targets:
    raise ValueError(f'lora.targets is {config.targets!r}, which matches none of the names of the {len(linear)} linear '
                     f'layers, such as {next(iter(linear), None)!r}.')
  for name, layer in targets.items():
    inputs = len(layer.in_features) if isinstance(layer, nnx.LinearGeneral) else 1
    layer.__class__ = _ADAPTED[type(layer)]
    assert isinstance(layer, _Adapter)  # for mypy
    stack, shape = _split_shape(name, layer)
    layer.lora_inputs, layer.lora_scale = inputs, config.alpha / config.rank
    a = (math.prod(shape[:inputs]), config.rank)
    layer.lora_a = nnx.Param(initializers.repeated(initializers.he_uniform(), stack)(rngs.params(), a))
    layer.lora_b = nnx.Param(jnp.zeros((*stack, config.rank, math.prod(shape[inputs:]))))


def _split_shape(name: str, layer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Return the axis of stacked layers, if any, and a layer's kernel."""
  count = int(is_stacked(f'{name}/kernel'))
  return layer.kernel.shape[:count], layer.kernel.shape[count:]


def _is_target(name: str, layer: Any, config: LoraConfig) -> bool:
  """Return whether a linear layer is adapted.

  Raises:
    ValueError: stacked layers are adapted together, and some of them alone are named.
  """
  (count,) = _split_shape(name, layer)[0] or (1,)
  named = [bool(re.search(config.targets, layer_name(f'{name}/kernel', i).removesuffix('/kernel')))
           for i in range(count)]
  if any(named) and not all(named):
    raise ValueError(f'lora.targets is {config.targets!r}, which names {sum(named)} of the {count} layers in {name}. '
                     'Layers of a stack are adapted together: name all of them, or none.')
  return any(named)


def adapted(model: nnx.Module) -> dict[str, _Adapter]:
  """Return the adapted layers by name."""
  return {name: layer for name, layer in _named_modules(model).items() if isinstance(layer, _Adapter)}


def merged_kernels(model: nnx.Module) -> dict[str, Array]:
  """Return the kernels of adapted layers with adapters folded in."""
  return {f'{name}/kernel': merge(layer.kernel[...], layer.lora_a[...], layer.lora_b[...], layer.lora_scale)
          for name, layer in adapted(model).items()}


def merge(kernel: Array, a: Array, b: Array, scale: float) -> Array:
  """Return a kernel with its adapter folded in, also of stacked layers."""
  product = scale * jnp.matmul(a, b, precision='highest')  # accelerators multiply float32 in fewer bits by default
  return (kernel + product.reshape(kernel.shape)).astype(kernel.dtype)


def is_adapter(name: str) -> bool:
  """Return whether a variable of this name belongs to an adapter."""
  return name.endswith(('/lora_a', '/lora_b'))


def _named_modules(model: nnx.Module) -> dict[str, nnx.Module]:
  return {'/'.join(map(str, path)): node for path, node in nnx.iter_graph(model) if isinstance(node, nnx.Module)}
