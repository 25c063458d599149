"""Pruning: attention heads and layers removed from a trained transformer.

Heads are ranked by their first-order importance (Michel et al. 2019), the change of the loss if a head's output were
scaled down: |sum(W * dL/dW)| over its rows of the output projection, averaged over batches. Each layer keeps the same
number, so that the result is an ordinary network. Layers are removed one at a time, each time the one without which the
loss is least. A short training recovers most of the loss: `train.py --init.weights WEIGHTS --init.prune` does both.

For models with `config.prunable_layers`, whose configuration has `layers`, `heads`, `head_size` and `width`.
"""
import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from rtjax.models import PolicyConfig, PolicyModel, from_values, parameters
from rtjax.observation import Batch


class EncodedBatch(NamedTuple):
  """A batch whose images are encoded; `batch` itself has them no more.

  Attributes:
    frames: output of `PolicyModel.encode_frames`.
  """
  frames: Float[Array, 'B T N D']
  batch: Batch


class _Sizes(Protocol):
  __dataclass_fields__: ClassVar[dict[str, Any]]
  layers: int
  heads: int
  head_size: int
  width: int


def prune(model: PolicyModel, smaller: PolicyConfig, batches: Iterable[Batch]) -> tuple[PolicyModel, str]:
  """Remove heads and layers until there are as many as in `smaller`.

  Returns:
    The network, and a report for people.

  Raises:
    ValueError: `smaller` has more of either, or another head size or width.
  """
  before, after = _sizes(model.config), _sizes(smaller)
  if (before.head_size, before.width) != (after.head_size, after.width):
    raise ValueError(f'prune: the weights have head_size {before.head_size} and width {before.width}, this model '
                     f'{after.head_size} and {after.width}. Pruning removes complete heads and layers: give the model '
                     'the same head size and width.')
  encoded = encode(model, batches)
  losses = [loss(model, encoded)]
  model, kept = drop_layers(model, after.layers, encoded)
  losses.append(loss(model, encoded))
  model = drop_heads(model, after.heads, head_importance(model, encoded))
  losses.append(loss(model, encoded))
  first, second, last = (f'{value:.3f}' for value in losses)
  return model, (f'\n  layers {before.layers} -> {after.layers} (kept {kept}): loss {first} -> {second}'
                 f'\n  heads  {before.heads} -> {after.heads} in each layer: loss {second} -> {last}')


def encode(model: PolicyModel, batches: Iterable[Batch]) -> list[EncodedBatch]:
  """Encode the images of some batches once, for the functions below.

  Raises:
    ValueError: there are no batches.
  """
  encode_frames = jax.jit(model.encode_frames)
  encoded = []
  for batch in batches:
    observation, _, _ = batch.windows()
    frames = encode_frames(jax.tree.map(jnp.asarray, observation))
    without_images = dataclasses.replace(observation, images=observation.images[..., :0, :0, :])
    encoded.append(EncodedBatch(frames, dataclasses.replace(batch, observation=without_images)))
  if not encoded:
    raise ValueError('batches is empty: pruning needs some to measure importance.')
  return encoded


def loss(model: PolicyModel, encoded: list[EncodedBatch]) -> float:
  """Return the mean cross-entropy in inference mode."""
  terms = [_loss_terms(*nnx.split(model), batch) for batch in encoded]
  return float(sum(total for total, _ in terms) / sum(weight for _, weight in terms))


def head_importance(model: PolicyModel, encoded: list[EncodedBatch]) -> Float[np.ndarray, 'layers heads']:
  """Return the first-order importance of each head."""
  parts: Any = nnx.split(model, nnx.Param, ...)
  graphdef, weights, rest = parts
  gradient = jax.jit(jax.grad(lambda weights, batch: _total(nnx.merge(graphdef, weights, rest), batch)[0]))
  kernels = [_attention(model, layer) + 'out/kernel' for layer in range(_sizes(model.config).layers)]

  @jax.jit
  def products(weights: Any, gradients: Any) -> Array:
    values, slopes = ({'/'.join(map(str, path)): v[...] for path, v in nnx.to_flat_state(tree)}
                      for tree in (weights, gradients))
    return jnp.stack([jnp.abs((values[name] * slopes[name]).sum((1, 2))) for name in kernels])  # [h, d, D] each

  return np.mean([products(weights, gradient(weights, batch)) for batch in encoded], 0)


def drop_heads(model: PolicyModel, keep: int, importance: Float[np.ndarray, 'layers heads']) -> PolicyModel:
  """Return the network with the `keep` most important heads of each layer."""
  heads = _sizes(model.config).heads
  if not 1 <= keep <= heads:
    raise ValueError(f'heads is {keep}, expected 1 to {heads}, the number of heads in each layer of the network.')
  values = {name: np.asarray(value) for name, value in parameters.named(model).items()}
  for layer, row in enumerate(importance):
    kept = np.sort(np.argsort(row)[heads - keep:])
    attention = _attention(model, layer)
    for part in ('query', 'key', 'value'):
      values[f'{attention}{part}/kernel'] = values[f'{attention}{part}/kernel'][:, kept]
      values[f'{attention}{part}/bias'] = values[f'{attention}{part}/bias'][kept]
    values[f'{attention}out/kernel'] = values[f'{attention}out/kernel'][kept]
  return from_values(_resized(model.config, heads=keep), values)


def drop_layers(model: PolicyModel, keep: int, encoded: list[EncodedBatch]) -> tuple[PolicyModel, list[int]]:
  """Return the network with `keep` layers, and the numbers of these layers."""
  layers = _sizes(model.config).layers
  if not 1 <= keep <= layers:
    raise ValueError(f'layers is {keep}, expected 1 to {layers}, the number of layers of the network.')
  kept = list(range(layers))
  while len(kept) > keep:
    shorter = [[k for k in kept if k != removed] for removed in kept]
    kept = min(shorter, key=lambda layers: loss(_with_layers(model, layers), encoded))
  return _with_layers(model, kept), kept


def _with_layers(model: PolicyModel, kept: list[int]) -> PolicyModel:
  values, prefix = {}, model.config.prunable_layers
  for name, value in parameters.named(model).items():
    if name.startswith(prefix):
      number, rest = name.removeprefix(prefix).split('/', 1)
      if int(number) not in kept:
        continue
      name = f'{prefix}{kept.index(int(number))}/{rest}'
    values[name] = value
  return from_values(_resized(model.config, layers=len(kept)), values)


def _attention(model: PolicyModel, layer: int) -> str:
  return f'{model.config.prunable_layers}{layer}/attention/'


def _sizes(config: PolicyConfig) -> _Sizes:
  return cast(_Sizes, config)


def _resized(config: PolicyConfig, **changes: int) -> PolicyConfig:
  return cast(PolicyConfig, dataclasses.replace(_sizes(config), **changes))


def _total(model: PolicyModel, encoded: EncodedBatch) -> tuple[Array, Array]:
  terms = model.loss_from_frames(encoded.frames, encoded.batch, train=True)
  return terms.total, terms.weight


@functools.partial(jax.jit, static_argnums=0)
def _loss_terms(graphdef: nnx.GraphDef, state: Any, encoded: EncodedBatch) -> tuple[Array, Array]:
  return _total(nnx.merge(graphdef, state), encoded)
