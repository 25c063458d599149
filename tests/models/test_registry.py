"""Models that exist as shapes alone."""
import jax
import jax.numpy as jnp
from helpers.tiny_rt1 import TINY

from rtjax import models
from rtjax.models import parameters


def test_abstract_models_of_one_configuration_share_nothing():
  """Although the configuration is traced once."""
  one = models.abstract(TINY)
  one.transformer.output.bias.set_value(jnp.zeros(TINY.action_spec.vocab_size))
  del one.token_learner
  other = models.abstract(TINY)
  assert isinstance(other.transformer.output.bias.get_value(), jax.ShapeDtypeStruct)
  assert parameters.shapes(other) == parameters.shapes(models.build(TINY, seed=0))
