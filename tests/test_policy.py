"""What a policy promises, on a tiny network; its numbers are in test_policy_golden.py."""
import numpy as np
import pytest
from flax import nnx
from tiny_rt1 import TINY

from rtjax import instructions
from rtjax.models import build
from rtjax.policy import Policy


@pytest.fixture(scope='module')
def model():
  return build(TINY, rngs=nnx.Rngs(0))


def frames(count: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, (count, 40, 32, 3), dtype=np.uint8)


def embedding(seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=512).astype(np.float32)


def test_equals_the_whole_window(model):
  """Each step gives what the network gives for the frames up to it, before and after the window has filled."""
  policy = Policy(model)
  policy.reset(embedding=embedding())
  images = frames(6)
  for step in range(6):
    out = policy.step(images[step])
    window = images[max(0, step + 1 - TINY.window):step + 1]
    expected = np.asarray(model(window[None], embedding()[None]))[0, -1]
    np.testing.assert_allclose(out.logits, expected, atol=2e-5)
    assert out.tokens.dtype == np.int32 and out.tokens.shape == (7,)
    np.testing.assert_allclose(out.confidence, np.exp(expected).max(-1) / np.exp(expected).sum(-1), rtol=1e-3)
    np.testing.assert_array_equal(
        np.concatenate(list(out.action.values())), TINY.action_spec.detokenize(out.tokens))


def test_reset_forgets(model):
  policy = Policy(model)
  policy.reset(embedding=embedding())
  first = policy.step(frames(1)[0])
  policy.step(frames(1, 1)[0])
  policy.reset(embedding=embedding())
  np.testing.assert_array_equal(policy.step(frames(1)[0]).logits, first.logits)


def test_instruction_as_text(model):
  policy = Policy(model, instructions.HASHED_NGRAMS)
  policy.reset('reach the red circle')
  by_text = policy.step(frames(1)[0])
  policy.reset(embedding=instructions.hashed_ngrams('reach the red circle'))
  np.testing.assert_array_equal(policy.step(frames(1)[0]).logits, by_text.logits)


def test_pictures_are_brought_to_the_size_of_training(model):
  tf = pytest.importorskip('tensorflow')
  image = frames(1)[0]
  fitted = tf.cast(tf.image.resize_with_pad(image, 64, 64), tf.uint8).numpy()
  outputs = []
  for policy, picture in [(Policy(model, image_size=(64, 64)), image), (Policy(model), fitted)]:
    policy.reset(embedding=embedding())
    outputs.append(policy.step(picture).logits)
  np.testing.assert_allclose(*outputs, atol=1e-2)


def test_bad_input(model):
  policy = Policy(model, 'universal-sentence-encoder-large/5')
  with pytest.raises(ValueError, match='reset'):
    policy.step(frames(1)[0])
  with pytest.raises(ValueError, match=r'(?s)universal-sentence-encoder-large/5.*embedding='):
    policy.reset('pick up the can')
  with pytest.raises(ValueError, match='either'):
    policy.reset()
  with pytest.raises(ValueError, match=r'\(511,\)'):
    policy.reset(embedding=embedding()[:-1])
  with pytest.raises(ValueError, match='NaN'):
    policy.reset(embedding=np.full(512, np.nan))
  policy.reset(embedding=embedding())
  with pytest.raises(ValueError, match=r'float32 \(40, 32, 3\)'):
    policy.step(frames(1)[0].astype(np.float32))
