"""RT-2 behind the server: instructions as text, its own vocabulary, a prompt that is too long."""
import dataclasses

import numpy as np
import pytest
from flax import nnx
from helpers import tiny_rt2
from helpers.fakes import serving
from rtjax_client import RemotePolicy

from rtjax import models
from rtjax.language.tokenizer import Tokenizer
from rtjax.models import vocabulary
from rtjax.policies.policy import BatchPolicy, Policy
from rtjax.serving.server import warm_up

SIZE = (16, 20)


@pytest.mark.parametrize('act', ['heads', 'text'])
def test_equals_a_policy_at_hand(act):
  tokenizer = Tokenizer()
  text = dataclasses.replace(tiny_rt2.TINY.text, vocab_size=tokenizer.size)
  config = dataclasses.replace(tiny_rt2.TINY, act=act, text=text, prompt_length=20, action_ids=())
  model = models.build(vocabulary.fitted(config, tokenizer), rngs=nnx.Rngs(0))
  model.vocabulary = tokenizer
  policies, local = BatchPolicy(model, 2, tokenizer.id), Policy(model, tokenizer.id)
  warm_up(policies, SIZE)
  with serving(policies, size=SIZE) as (_, port), RemotePolicy(port=port) as remote:
    for instruction in ('pick up the red cube', 'open the drawer'):
      remote.reset(instruction)
      local.reset(instruction)
      for image in np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8):
        got, expected = remote.step(image), local.step(image)
        np.testing.assert_array_equal(got.tokens, expected.tokens)
        np.testing.assert_allclose(got.confidence, expected.confidence, rtol=1e-4)
    remote.reset('pick up ' + 'the red cube and ' * 10)
    with pytest.raises(Exception, match='at most 20 are allowed'):
      remote.step(np.zeros((*SIZE, 3), np.uint8))
