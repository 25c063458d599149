"""RT-2 on the server: instructions as text and as token ids, and a prompt that is too long."""
import dataclasses

import numpy as np
import pytest
from helpers import tiny_rt2
from helpers.fakes import serving
from rtjax_client import RemotePolicy

from rtjax import models
from rtjax.checkpoints import PolicyMetadata
from rtjax.language.tokenizer import Tokenizer
from rtjax.policies.policy import BatchPolicy, Policy
from rtjax.serving.server import warm_up

SIZE = (16, 20)


@pytest.mark.parametrize('action_head', [pytest.param('classifier', marks=pytest.mark.slow), 'text'])
def test_equals_a_local_policy(action_head):
  tokenizer, backbone = Tokenizer(), tiny_rt2.TINY.backbone
  backbone = dataclasses.replace(backbone, text=dataclasses.replace(backbone.text, vocab_size=tokenizer.size))
  config = dataclasses.replace(
      tiny_rt2.TINY, action_head=action_head, horizon=2, backbone=backbone, prompt_length=20, action_ids=())
  model = models.build(config.with_tokenizer(tokenizer), seed=0)
  model.set_tokenizer(tokenizer)
  metadata = PolicyMetadata(embedding_id=tokenizer.id)
  policies, local = BatchPolicy(model, 2, metadata), Policy(model, metadata)
  warm_up(policies, SIZE)
  with serving(policies, size=SIZE) as (_, port), RemotePolicy(port=port) as remote:
    assert remote.metadata['model']['horizon'] == 2
    for instruction in ('pick up the red cube', 'open the drawer'):
      remote.reset(instruction)
      local.reset(instruction)
      for image in np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8):
        got, expected = remote.step(image), local.step(image)
        np.testing.assert_array_equal(got.tokens, expected.tokens)
        np.testing.assert_array_equal(got.plan, expected.plan)
        np.testing.assert_allclose(got.confidence, expected.confidence, rtol=1e-4)
    image = np.zeros((*SIZE, 3), np.uint8)
    ids = tokenizer.encode(['an instruction as token ids'], 20)[0]
    remote.reset(embedding=ids)
    local.reset(embedding=ids)
    np.testing.assert_array_equal(remote.step(image).tokens, local.step(image).tokens)
    remote.reset(embedding=ids.astype(np.float32))
    with pytest.raises(Exception, match=r'expected a prompt.s token ids'):
      remote.step(image)
    remote.reset('pick up ' + 'the red cube and ' * 10)
    with pytest.raises(Exception, match='at most 20 are allowed'):
      remote.step(image)
