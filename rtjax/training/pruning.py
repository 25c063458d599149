"""Smaller transformers: whole attention heads and whole layers taken out of a trained RT-1.

Heads go by their first-order importance (Michel et al. 2019): how much the loss would change if a head's output were
scaled down, |sum(W * dL/dW)| over its rows of the output projection, averaged over batches. As many stay in each layer,
so that the result is an ordinary network. Layers go one at a time, each time the one without which the loss is least.
What is lost comes back, or most of it, in a short training: `train.py --init-from WEIGHTS --prune` does both.
"""
import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from rtjax.models import RT1, RT1Config, from_values, parameters

Batch = dict[str, Any]
Seen = list[dict[str, Array]]  # batches with `tokens` [B, T, N, D] in place of images

_LAYER = 'transformer/layers/'


def prune(model: RT1, smaller: RT1Config, batches: Iterable[Batch]) -> tuple[RT1, str]:
  """The network with as many heads and layers as `smaller`, and what was taken out, for people to read.

  Raises:
    ValueError: `smaller` has more of either, or another head size, which is not a matter of taking out.
  """
  config = model.config
  if (config.head_size, config.width) != (smaller.head_size, smaller.width):
    raise ValueError(f'prune: the weights have head_size {config.head_size} and width {config.width}, this model '
                     f'{smaller.head_size} and {smaller.width}. Pruning takes out whole heads and layers: give the '
                     'model the same head size and width.')
  seen = see(model, batches)
  losses = [loss(model, seen)]
  model, kept = drop_layers(model, smaller.layers, seen)
  losses.append(loss(model, seen))
  model = drop_heads(model, smaller.heads, head_importance(model, seen))
  losses.append(loss(model, seen))
  before, between, after = (f'{value:.3f}' for value in losses)
  return model, (f'\n  layers {config.layers} -> {smaller.layers} (kept {kept}): loss {before} -> {between}'
                 f'\n  heads  {config.heads} -> {smaller.heads} in each layer: loss {between} -> {after}')


def see(model: RT1, batches: Iterable[Batch]) -> Seen:
  """Encodes the pictures of some batches once, for the functions below."""
  encode = jax.jit(model.tokens)
  seen = [{'tokens': encode(batch['images'], batch['embeddings'], batch.get('proprioception')),
           'actions': jnp.asarray(batch['actions']), 'mask': jnp.asarray(batch['mask'])} for batch in batches]
  if not seen:
    raise ValueError('batches is empty, pruning needs some to tell what is important.')
  return seen


def loss(model: RT1, seen: Seen) -> float:
  """Mean cross-entropy over the action tokens that count, in inference mode."""
  terms = [_terms(*nnx.split(model), batch) for batch in seen]
  return float(sum(total for total, _ in terms) / sum(weight for _, weight in terms))


def head_importance(model: RT1, seen: Seen) -> Float[np.ndarray, 'layers heads']:
  """How much the loss depends on each head; see the module's docstring."""
  parts: Any = nnx.split(model, nnx.Param, ...)
  graphdef, weights, rest = parts
  gradient = jax.jit(jax.grad(lambda weights, batch: _total(nnx.merge(graphdef, weights, rest), batch)[0]))

  @jax.jit
  def products(weights: Any, gradients: Any) -> Array:
    kernels = [[tree['transformer']['layers'][i]['attention']['out']['kernel'][...] for i in range(model.config.layers)]
               for tree in (weights, gradients)]  # [heads, head_size, D] each
    return jnp.stack([jnp.abs((kernel * slope).sum((1, 2))) for kernel, slope in zip(*kernels, strict=True)])

  return np.mean([products(weights, gradient(weights, batch)) for batch in seen], 0)


def drop_heads(model: RT1, keep: int, importance: Float[np.ndarray, 'layers heads']) -> RT1:
  """The network with the `keep` most important heads of each layer."""
  heads = model.config.heads
  if not 1 <= keep <= heads:
    raise ValueError(f'heads is {keep}, expected 1 to {heads}, what the network has in each layer.')
  values = {name: np.asarray(value) for name, value in parameters.named(model).items()}
  for layer, row in enumerate(importance):
    kept = np.sort(np.argsort(row)[heads - keep:])
    place = f'{_LAYER}{layer}/attention/'
    for part in ('query', 'key', 'value'):
      values[f'{place}{part}/kernel'] = values[f'{place}{part}/kernel'][:, kept]
      values[f'{place}{part}/bias'] = values[f'{place}{part}/bias'][kept]
    values[f'{place}out/kernel'] = values[f'{place}out/kernel'][kept]
  return from_values(dataclasses.replace(model.config, heads=keep), values)


def drop_layers(model: RT1, keep: int, seen: Seen) -> tuple[RT1, list[int]]:
  """The network with `keep` layers, and the numbers of the layers that stayed."""
  if not 1 <= keep <= model.config.layers:
    raise ValueError(f'layers is {keep}, expected 1 to {model.config.layers}, what the network has.')
  kept = list(range(model.config.layers))
  while len(kept) > keep:
    shorter = [[k for k in kept if k != gone] for gone in kept]
    kept = min(shorter, key=lambda layers: loss(_with_layers(model, layers), seen))
  return _with_layers(model, kept), kept


def _with_layers(model: RT1, kept: list[int]) -> RT1:
  values = {}
  for name, value in parameters.named(model).items():
    if name.startswith(_LAYER):
      number, rest = name.removeprefix(_LAYER).split('/', 1)
      if int(number) not in kept:
        continue
      name = f'{_LAYER}{kept.index(int(number))}/{rest}'
    values[name] = value
  return from_values(dataclasses.replace(model.config, layers=len(kept)), values)


def _total(model: RT1, batch: dict[str, Array]) -> tuple[Array, Array]:
  terms = model.judge(model.decode(batch['tokens']), batch, train=True)
  return terms.total, terms.weight


@functools.partial(jax.jit, static_argnums=0)
def _terms(graphdef: nnx.GraphDef, state: Any, batch: dict[str, Array]) -> tuple[Array, Array]:
  return _total(nnx.merge(graphdef, state), batch)
