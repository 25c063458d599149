"""Tokens against the official tokenizer, and the ActionSpec's own promises."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtjax import actions
from rtjax.actions import ActionField, ActionSpec, codec


@pytest.fixture(scope='module')
def golden(shared):
  return np.load(shared / 'parity/rt1_tf/tokenizer.npz')


def test_tokenize_golden(golden):
  assert list(golden['order']) == list(actions.RT1.names)
  raw = actions.RT1.pack({name: golden[f'in_{name}'] for name in actions.RT1.names})
  np.testing.assert_array_equal(actions.RT1.tokenize(raw), golden['tokens'])
  np.testing.assert_array_equal(actions.RT1.tokenize(jnp.asarray(raw)), golden['tokens'])
  np.testing.assert_array_equal(jax.jit(actions.RT1.tokenize)(raw), golden['tokens'])
  alphabetical = ActionSpec(tuple(sorted(actions.RT1.fields, key=lambda f: f.name)))
  raw = alphabetical.pack({name: golden[f'in_{name}'] for name in actions.RT1.names})
  np.testing.assert_array_equal(alphabetical.tokenize(raw), golden['tokens_alphabetical'])


def test_detokenize_golden(golden):
  tokens = golden['detok_tokens']
  eager = actions.RT1.detokenize
  for run in (eager, lambda t: eager(jnp.asarray(t)), jax.jit(eager)):
    raw = np.asarray(run(tokens))
    for name, part in actions.RT1.unpack(raw).items():
      np.testing.assert_array_equal(part, golden[f'detok_{name}'], err_msg=name)
    np.testing.assert_array_equal(actions.RT1.tokenize(raw), golden['retokenized'])


@pytest.mark.parametrize('low,high,bins', [
    (-1, 1, 256), (-np.pi / 2, np.pi / 2, 256), (0, 1, 256), (-2, 2, 512), (-0.05, 0.05, 7), (1e-3, 1e3, 256)])
def test_thresholds_are_the_rule(low, high, bins):
  """Every float near a bound between two bins, and random ones, get the token of the plain formula."""
  field = ActionField('x', 1, low, high, bins)
  spec = ActionSpec((field,), max(bins, 256))
  edges = codec._thresholds(field)[0]
  below, above = (np.nextafter(edges, np.float32(towards)) for towards in (-np.inf, np.inf))
  random = np.random.default_rng(0).uniform(low - 1, high + 1, 4000).astype(np.float32)
  values = np.concatenate([edges, below, above, random, np.float32([low, high])])
  low32, high32 = np.float32(low), np.float32(high)
  expected = ((np.clip(values, low32, high32) - low32) / (high32 - low32) * np.float32(bins - 1)).astype(np.int32)
  np.testing.assert_array_equal(spec.tokenize(values[:, None])[:, 0], expected)
  np.testing.assert_array_equal(jax.jit(spec.tokenize)(values[:, None])[:, 0], expected)


def test_decoding_stays_within_one_bin():
  spec = actions.ARM_7D
  tokens = np.random.default_rng(0).integers(0, 256, (500, spec.num_tokens))
  again = spec.tokenize(spec.detokenize(tokens))
  assert np.all((tokens - again >= 0) & (tokens - again <= 1))


def test_pose():
  """The absolute pose: value = low + token / 255 * (high - low), and a gripper of two classes."""
  assert actions.POSE_7D.token_bins == (256,) * 6 + (2,) and actions.POSE_7D.size == 8
  tokens = np.array([0, 255, 51, 0, 255, 102, 1])
  low, high = np.array([-0.5, -0.5, 0] + [-3.14] * 3), np.array([0.5, 0.5, 0.8] + [3.14] * 3)
  raw = actions.POSE_7D.detokenize(tokens)
  np.testing.assert_allclose(raw[:6], low + tokens[:6] / 255 * (high - low), rtol=1e-6)
  np.testing.assert_array_equal(raw[6:], [0, 1])


def test_tokens_beyond_a_field():
  spec = ActionSpec((actions.classes('mode', 2, fallback=1), ActionField('x', 1, 0.0, 1.0, bins=4)), vocab_size=8)
  np.testing.assert_array_equal(spec.detokenize(np.array([[7, 7], [0, 3], [1, 0]])), [[0, 1, 1], [1, 0, 1], [0, 1, 0]])


def test_clipped_and_mirror():
  raw = np.zeros((2, 7), np.float32)
  raw[0, :] = [0.06, 0.05, 0, 0.1, 0.2, -0.3, 1]
  np.testing.assert_array_equal(actions.ARM_7D.clipped(raw)[0], [1, 0, 0, 0, 0, 1, 0])
  mirrored = actions.ARM_7D.mirror(raw)
  np.testing.assert_allclose(mirrored[0], [0.06, -0.05, 0, -0.1, 0.2, 0.3, 1])
  np.testing.assert_array_equal(actions.ARM_7D.mirror(mirrored), raw)


def test_sizes_and_names():
  assert actions.RT1.num_tokens == 11 and actions.RT1.size == 13 and actions.RT1.token_names[1] == 'world_vector[0]'


@pytest.mark.parametrize('call,words', [
    (lambda: actions.get('rt_1'), "Did you mean 'rt1'"),
    (lambda: actions.ARM_7D.tokenize(np.full((1, 7), np.nan, np.float32)), 'NaN.*translation'),
    (lambda: actions.ARM_7D.decode(np.full((7, 256), np.nan, np.float32)), 'logits holds NaN'),
    (lambda: actions.ARM_7D.decode(np.full((7, 256), -np.inf, np.float32), 'mean'), 'logits holds NaN'),
    (lambda: ActionField('a', 2, 0.0, (1.0, np.inf)), "'a'.*must be finite"),
    (lambda: ActionField('a', 1, mirror=np.nan), "'a'.*must be finite"),
    (lambda: actions.ARM_7D.tokenize(np.zeros((1, 6), np.float32)), r'\(1, 6\).*7'),
    (lambda: actions.ARM_7D.pack({'translaton': np.zeros(3)}), "Did you mean 'translation'"),
    (lambda: actions.ARM_7D.pack({'translation': np.zeros(3), 'gripper': np.zeros(1)}), "lacks the field 'rotation'"),
    (lambda: ActionField('x', 2, low=(0.0,)), 'low has 1 numbers'),
    (lambda: ActionField('x', 1, 1.0, 0.0), 'below high'),
    (lambda: ActionSpec((ActionField('x', 1, bins=512),)), 'more than vocab_size'),
    (lambda: ActionSpec(tuple(ActionField(f'{i}', 1024) for i in range(2))), '2048 numbers, expected at most 1024'),
    (lambda: ActionField('x', 1, bins=10 ** 5), 'bins is 100000, expected 2 to 8192'),
    (lambda: actions.classes('x', 3, fallback=3), 'fallback is 3, expected a class, 0 to 2'),
])
def test_bad_input(call, words):
  with pytest.raises(ValueError, match=words):
    call()
