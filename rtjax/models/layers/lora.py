"""Adapters of low rank (LoRA, Hu et al. 2021): y = x W + (alpha / rank) x A B, where only A and B are trained.

B begins as zeros, so that an adapted network starts as what it was. `merge` adds A B to W: the plain network again.

Why not qwix, which adapts Flax models too: on NNX it rewrites one method of a model ("Only one method is supported for
nnx models"), and RT-2 is entered by several: `loss`, `advance`, `write`. Here the layers themselves are adapted, under
the names that they had, so that checkpoints and Hugging Face weights load into either network.
"""
import dataclasses
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Which layers are adapted, and how.

  Attributes:
    rank: width of the adapters; 0 = none.
    alpha: what they count, in units of 1 / rank: with alpha = rank they are added as they are.
    targets: pattern of the names of linear layers, such as 'text/encoder/layers/0/attention/query'.
  """
  rank: int = 0
  alpha: float = 16.0
  targets: str = r'(query|value)$'

  def __post_init__(self) -> None:
    if self.rank < 0:
      raise ValueError(f'lora.rank is {self.rank}, it must be 0 (no adapters) or more.')
    try:
      re.compile(self.targets)
    except re.error as error:
      raise ValueError(f'lora.targets is {self.targets!r}, which is no pattern: {error}.') from error


class _Adapter(nnx.Module):
  """What the adapted layers have in common.

  Attributes:
    lora_a, lora_b: A [inputs, rank] and B [rank, outputs]; a kernel of more axes is one of two.
    lora_inputs: how many axes of the kernel are inputs.
    lora_scale: alpha / rank.
  """
  lora_a: nnx.Param
  lora_b: nnx.Param
  lora_inputs: int
  lora_scale: float

  def __call__(self, x: Array) -> Array:
    plain = super().__call__(x)  # type: ignore[misc]
    flat = x.reshape(*x.shape[:x.ndim - self.lora_inputs], -1).astype(plain.dtype)
    added = flat @ self.lora_a[...].astype(plain.dtype) @ self.lora_b[...].astype(plain.dtype)
    return plain + self.lora_scale * added.reshape(plain.shape)


class AdaptedLinear(_Adapter, nnx.Linear):  # type: ignore[misc]
  """nnx.Linear with an adapter."""


class AdaptedLinearGeneral(_Adapter, nnx.LinearGeneral):  # type: ignore[misc]
  """nnx.LinearGeneral with an adapter."""


_ADAPTED: dict[type, type] = {nnx.Linear: AdaptedLinear, nnx.LinearGeneral: AdaptedLinearGeneral}


def adapt(model: nnx.Module, config: LoraConfig, *, rngs: nnx.Rngs) -> None:
  """Adapts, in place, the linear layers that `config` names.

  Raises:
    ValueError: it names none.
  """
  if not config.rank:
    return
  layers = {name: layer for name, layer in _layers(model).items() if re.search(config.targets, name)}
  if not layers:
    raise ValueError(f'lora.targets is {config.targets!r}, which is part of none of the {len(_layers(model))} names of '
                     f'linear layers, such as {next(iter(_layers(model)), None)!r}.')
  for layer in layers.values():
    shape, inputs = layer.kernel.shape, _inputs(layer)
    wide, narrow = int(np.prod(shape[:inputs])), int(np.prod(shape[inputs:]))
    layer.__class__ = _ADAPTED[type(layer)]
    layer.lora_inputs, layer.lora_scale = inputs, config.alpha / config.rank
    layer.lora_a = nnx.Param(nnx.initializers.he_uniform()(rngs.params(), (wide, config.rank)))
    layer.lora_b = nnx.Param(jnp.zeros((config.rank, narrow)))


def adapted(model: nnx.Module) -> dict[str, Any]:
  """The adapted layers by name."""
  return {name: layer for name, layer in _layers(model).items() if isinstance(layer, _Adapter)}


def merge(model: Any) -> Any:
  """The same network without adapters: a copy, whose kernels hold what they added. One without is returned as it is."""
  layers = adapted(model)
  if not layers:
    return model
  from rtjax import models
  values = {name: value for name, value in models.parameters.named(model).items()
            if not name.endswith(('/lora_a', '/lora_b'))}
  for name, layer in layers.items():
    added = layer.lora_scale * (layer.lora_a[...] @ layer.lora_b[...])
    values[f'{name}/kernel'] = values[f'{name}/kernel'] + added.reshape(layer.kernel.shape)
  merged = models.from_values(dataclasses.replace(model.config, lora=LoraConfig()), values)
  merged.vocabulary = model.vocabulary
  return merged


def _layers(model: nnx.Module) -> dict[str, Any]:
  return {'/'.join(map(str, path)): node for path, node in nnx.iter_graph(model)
          if isinstance(node, tuple(_ADAPTED))}


def _inputs(layer: Any) -> int:
  """How many axes of the kernel come in."""
  return len(layer.in_features) if isinstance(layer, nnx.LinearGeneral) else 1
