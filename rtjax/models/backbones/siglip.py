"""Vision tower of SigLIP (Zhai et al. 2023): a ViT without class token.

PaliGemma contains it too. With its pooler, a learned query attends to the tokens and an MLP follows (Lee et al. 2019):

    tokens [B, N, D] ->  x = attention(query, tokens);  x += mlp(norm(x))  -> [B, D]

Source: google-research/big_vision, models/vit.py; names and numbers as published on Hugging Face.
"""
import dataclasses
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from rtjax.models.backbones import vit
from rtjax.models.backbones.vit import ViT, ViTConfig
from rtjax.models.layers import initializers
from rtjax.models.layers.mlp import Activation
from rtjax.models.registry import register


@dataclasses.dataclass(frozen=True)
class SigLIPConfig(ViTConfig):
  """Shape of the network, as ViTConfig; the defaults are so400m/14 at 224."""
  patch: int = 14
  width: int = 1152
  layers: int = 27
  mlp_width: int = 4304
  class_token: bool = False
  activation: Activation = 'gelu_tanh'
  epsilon: float = 1e-6
  interpolation: Literal['linear', 'cubic'] = 'cubic'


class AttentionPooler(nnx.Module):
  """Attention of a learned query, and an MLP; see the module's docstring."""

  def __init__(self, config: SigLIPConfig, *, rngs: nnx.Rngs):
    self.query = nnx.Param(initializers.normal(config.width ** -0.5)(rngs.params(), (config.width,)))
    self.attention = vit.attention(config, rngs)
    self.norm = vit.layer_norm(config, rngs)
    self.mlp = vit.mlp(config, rngs)

  def __call__(self, tokens: Float[Array, 'B N D']) -> Float[Array, 'B D']:
    query = jnp.broadcast_to(self.query[...].astype(tokens.dtype), (tokens.shape[0], 1, tokens.shape[-1]))
    x = self.attention(query, tokens)
    return (x + self.mlp(self.norm(x)))[:, 0]


@register('siglip', SigLIPConfig)
class SigLIP(ViT):
  """ViT whose `pool` attends."""
  config: SigLIPConfig

  def make_pooler(self, rngs: nnx.Rngs) -> AttentionPooler:
    return AttentionPooler(self.config, rngs=rngs)

  def pool(self, tokens: Float[Array, 'B N D']) -> Float[Array, 'B D']:
    return self.pooler(tokens)
