"""Attention in blocks of queries."""
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rtjax.models.layers import attention
from rtjax.models.layers.attention import Attention


def test_blocks_of_queries_give_the_same_and_never_hold_all_scores(monkeypatch):
  layer = Attention(12, 2, 6, rngs=nnx.Rngs(0))
  x = jax.random.normal(jax.random.key(1), (3, 10, 12))
  graphdef, variables = nnx.split(layer)

  def evaluate():
    def loss(variables, x):  # traced again, being another function
      return jnp.sum(jnp.sin(nnx.merge(graphdef, variables)(x, x)))
    shapes = re.findall(r'\[3,2,(\d+),10\]', str(jax.make_jaxpr(jax.grad(loss))(variables, x)))
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(variables, x), set(shapes)
  whole, shapes = evaluate()
  assert '10' in shapes
  monkeypatch.setattr(attention, '_MOST_SCORES', 25)  # at most two queries
  parts, shapes = evaluate()
  assert '10' not in shapes
  for found, expected in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
