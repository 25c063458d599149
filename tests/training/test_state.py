"""Frozen parameters in the type of the computation."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from helpers import tiny_rt2

from rtjax.models import parameters
from rtjax.observation import Batch
from rtjax.training import state


def test_frozen_kernels_in_bfloat16_change_no_bit():
  config = dataclasses.replace(tiny_rt2.GROUNDED, dtype='bfloat16', proprioception_size=0)
  graphdef, params, stats, constants = state.split(tiny_rt2.randomised(config), lambda name: 'classifier' in name)
  small = state.with_dtype(constants, config)
  types = {name: leaf.dtype for name, leaf in parameters.named_leaves(small).items()}
  assert types['backbone/text/encoder/layers/stacked/mlp/gate/kernel'] == jnp.bfloat16
  assert types['backbone/text/token_embedding/embedding'] == jnp.bfloat16
  assert types['backbone/text/encoder/relative_bias'] == types['backbone/vision/norm/scale'] == jnp.float32
  texts, observation = Batch(text=tiny_rt2.text_batch(config, 4)), tiny_rt2.robot_batch(config, 4).observation

  @jax.jit
  def results(constants, texts, observation):
    model = state.merge(graphdef, params, stats, constants)
    return model.loss(texts, train=True).total, model.logits(observation)
  for before, after in zip(*(results(part, texts, observation) for part in (constants, small)), strict=True):
    np.testing.assert_array_equal(after, before)
