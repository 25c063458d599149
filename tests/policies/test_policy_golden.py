"""Rollouts of the reference policies, token by token."""
import numpy as np
import pytest
from helpers import golden_rt1, golden_rt1_x

from rtjax.policies.policy import Policy


@pytest.fixture(scope='module')
def golden(shared):
  return np.load(shared / 'parity/rt1_tf/rollout.npz')


@pytest.mark.parametrize('prefix', ['', 'switch_'])
def test_rollout(shared, golden, prefix):
  policy = Policy(golden_rt1.model(shared))
  policy.reset(embedding=golden['embedding'])
  for index, image in enumerate(golden['image']):
    if prefix and index == int(golden['switch_at']):
      policy.set_instruction(embedding=golden['embedding_switch'])
    out = policy.step(image)
    np.testing.assert_array_equal(out.tokens, golden[f'{prefix}tokens'][index])
    np.testing.assert_allclose(out.logits, golden[f'{prefix}logits'][index], atol=2e-3)
    for name, value in out.action.items():
      key = f'{prefix}action_{name}'
      if key in golden:
        np.testing.assert_array_equal(value, golden[key][index].reshape(value.shape), err_msg=name)
    if not prefix:
      norms = np.linalg.norm(np.asarray(policy.cache.tokens[0]), axis=(1, 2))
      np.testing.assert_allclose(norms, golden['image_token_norms'][index], rtol=1e-4, atol=1e-3)
      assert int(policy.cache.num_frames[0]) == golden['seq_idx'][index]
  if not prefix:
    np.testing.assert_allclose(np.asarray(policy.cache.tokens[0]), golden['final_image_tokens'], atol=3e-3)


@pytest.mark.slow
def test_rt1_x_rollout(shared):
  """18 frames of the public example's policy: before and after its window of 15 is full."""
  golden = np.load(shared / 'parity/rt1_x/rollout.npz')
  policy = Policy(golden_rt1_x.model(shared))
  policy.reset(embedding=golden['natural_language_embedding'])
  for index, image in enumerate(golden['image_uint8']):
    out = policy.step(image)
    np.testing.assert_array_equal(out.tokens, golden['tokens'][index])
    np.testing.assert_allclose(out.logits, golden['logits'][index], atol=2e-3)
    for name, value in out.action.items():
      np.testing.assert_allclose(value, golden[f'action/{name}'][index], atol=1e-6, err_msg=name)
