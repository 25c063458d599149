"""Adam, or Adafactor where memory is short, with warm-up and cosine decay."""
import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from rtjax.models import parameters
from rtjax.models.layers.layer_stack import is_stacked


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Settings of the optimizer.

  Adam's epsilon is 1e-7, the value of Keras and so of the official code. That code sets NaN elements of a gradient to
  zero; here they are an error or skip the step, see `TrainConfig.non_finite`.
  """
  kind: Literal['adam', 'adafactor'] = 'adam'
  """Adam, or Adafactor (Shazeer and Stern 2018) with less memory: a row and a column per matrix."""
  learning_rate: float = 1e-4
  """Highest learning rate, reached after the warm-up."""
  warmup_steps: int = 1000
  """Steps over which the learning rate rises linearly from 0."""
  end_learning_rate: float = 0.0
  """Learning rate at the last step; the cosine ends there."""
  clip_norm: float = 1.0
  """Largest global norm of the gradients, which are scaled down to it; 0 = never."""
  weight_decay: float = 0.0
  """Decoupled weight decay of kernels, with Adam known as AdamW; 0 = none."""
  ema_decay: float = 0.0
  """Decay of a moving average of the parameters, which is validated and deployed; 0 = none."""

  def __post_init__(self) -> None:
    for name in ('learning_rate', 'end_learning_rate', 'warmup_steps', 'clip_norm', 'weight_decay'):
      if not 0 <= getattr(self, name) < math.inf:
        raise ValueError(f'optimizer.{name} is {getattr(self, name)}, expected a finite number, not negative.')
    if not 0 <= self.ema_decay < 1:
      raise ValueError(f'optimizer.ema_decay is {self.ema_decay}, expected 0 (none) to below 1, such as 0.999.')


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
  """Return the learning rate as a function of the steps taken."""
  warmup = min(config.warmup_steps, steps - 1)
  return optax.warmup_cosine_decay_schedule(
      0.0 if warmup else config.learning_rate, config.learning_rate, warmup, steps, config.end_learning_rate)


def describe_longer(config: OptimizerConfig, start: int, before: int, steps: int) -> str:
  """Describe the effect of more steps on the learning rate."""
  old, new = (float(schedule(config, total)(start)) for total in (before, steps))
  return (f'steps: {before} before, {steps} now: the cosine now ends at step {steps}, and the learning rate '
          f'at step {start} is {new:.3g}, not {old:.3g}. The result is not that of {steps} steps from the start')


def build(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
  """Return the gradient transformation for a run of `steps` steps."""
  def kernels(params: optax.Params) -> optax.Params:
    return _map_by_layer(lambda p, first: p.ndim > first + 1, params)
  return optax.chain(
      optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
      _adafactor() if config.kind == 'adafactor' else optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-7),
      optax.add_decayed_weights(config.weight_decay, kernels) if config.weight_decay else optax.identity(),
      optax.scale_by_learning_rate(schedule(config, steps)))


def _adafactor() -> optax.GradientTransformation:
  """Return Adafactor as for T5: no momentum, updates clipped at 1."""
  clip = optax.stateless(lambda updates, _: _map_by_layer(_clipped, updates))
  return optax.chain(optax.scale_by_factored_rms(), clip)


def _clipped(update: jax.Array, first: int) -> jax.Array:
  """Scale updates down to a root mean square of 1 per layer."""
  mean = jnp.mean(jnp.square(update), range(first, update.ndim), keepdims=True)
  return update / jnp.maximum(1.0, jnp.sqrt(mean))


def _map_by_layer(function: Callable[[Any, int], Any], tree: optax.Params) -> Any:
  """Map function(array, first axis behind that of stacked layers)."""
  return jax.tree_util.tree_map_with_path(
      lambda path, leaf: function(leaf, int(is_stacked(parameters.path_name(path)))), tree)
