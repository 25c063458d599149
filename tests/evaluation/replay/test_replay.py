"""Replaying against the network itself, and against datasets read in another way."""
import io
import types

import numpy as np
import pytest
import scipy.special
import tensorflow_datasets as tfds
from flax import nnx
from helpers import replays
from PIL import Image

from rtjax import actions, models
from rtjax.actions import ActionField, ActionSpec
from rtjax.data.rlds.episodes import Episode
from rtjax.evaluation.replay import replay
from rtjax.policies.policy import Policy


def episode(spec: ActionSpec, length: int, size: tuple[int, int]) -> tuple[Episode, list[np.ndarray]]:
  draw = np.random.default_rng(length)
  low, high = (np.concatenate([getattr(f, side) for f in spec.fields]) for side in ('low', 'high'))
  images = list(draw.integers(0, 256, (length, *size, 3), np.uint8))
  return Episode(
      number=7, images=None, embeddings=draw.normal(size=(length, 512)).astype(np.float32),
      actions=draw.uniform(low, high, (length, spec.size)).astype(np.float32),
      instructions=np.array(['open the drawer'] * length, object), proprioception=None), images


def test_equals_the_network_on_whole_windows():
  spec = actions.ARM_7D
  config = replays.network(spec)
  model = models.build(config, rngs=nnx.Rngs(0))
  given, images = episode(spec, 5, (40, 32))
  found = replay.replay(Policy(model), given, images)
  for step in range(5):
    window = slice(max(0, step + 1 - config.window), step + 1)
    logits = np.asarray(model(np.stack(images)[None, window], given.embeddings[None, window]))[0, -1]
    np.testing.assert_array_equal(found.predicted_tokens[step], logits.argmax(-1))
    np.testing.assert_allclose(found.confidence[step], scipy.special.softmax(logits, -1).max(-1), rtol=1e-3)
  np.testing.assert_array_equal(found.predicted, spec.detokenize(found.predicted_tokens))
  np.testing.assert_array_equal(found.recorded, given.actions)
  np.testing.assert_array_equal(found.recorded_tokens, spec.tokenize(given.actions))
  assert (found.number, found.instruction, len(found)) == (7, 'open the drawer', 5)
  assert np.all(found.seconds > 0)


def test_episodes_come_as_stored(tmp_path):
  folder = replays.bridge(tmp_path, lengths=(4, 2, 3))
  spec = actions.ARM_7D
  tokens = np.random.default_rng(0).integers(0, 256, (4, 7)).astype(np.int32)
  policy = replays.FakePolicy(spec, tokens, 'universal-sentence-encoder-large/5')
  dataset = replay.open_dataset(policy, str(folder), 'val')
  stored = [e['steps'] for e in tfds.as_numpy(tfds.builder_from_directory(folder).as_dataset(split='val'))]
  count = 0
  for found, steps in zip(replay.replay_all(policy, dataset, 2), stored, strict=False):
    steps = list(steps)
    length = len(steps)
    np.testing.assert_array_equal(found.recorded, [s['action'] for s in steps])
    np.testing.assert_array_equal(found.predicted_tokens, tokens[:length])
    np.testing.assert_array_equal(policy.images, [s['observation']['image_0'] for s in steps])
    np.testing.assert_array_equal(policy.embeddings, [s['language_embedding'] for s in steps])
    assert (found.number, found.instruction) == (count, 'pick the red cube')
    assert [step for step, _ in found.frames] == list(range(length))
    count += 1
  assert count == 2


def test_several_views_and_the_robots_state(tmp_path):
  """A policy of two cameras that looks at the state gets both, step by step."""
  folder = replays.bridge(tmp_path, lengths=(3,))
  tokens = np.zeros((3, 7), np.int32)
  policy = replays.FakePolicy(actions.ARM_7D, tokens, 'universal-sentence-encoder-large/5', ('image', 'image_1'), 7)
  dataset = replay.open_dataset(policy, str(folder), 'val')
  found, = replay.replay_all(policy, dataset, 1)
  stored = list(next(iter(tfds.builder_from_directory(folder).as_dataset(split='val')))['steps'].as_numpy_iterator())
  for step, recorded in enumerate(stored):
    views = [recorded['observation'][name] for name in ('image_0', 'image_1')]
    np.testing.assert_array_equal(policy.images[step], views)
    np.testing.assert_allclose(policy.states[step], recorded['observation']['state'])
  assert len(found.frames) == 3


def test_right_counts_equal_tokens():
  found = replays.replay([[0, 1, 2], [1, 1, 1]], [[0, 2, 2], [1, 1, 0]])
  np.testing.assert_array_equal(found.right, [[True, False, True], [True, True, False]])


def test_filmstrip_shows_the_middle_of_equal_parts():
  for length in range(1, 60):
    steps = replay.evenly_spaced(length, 10)
    assert len(set(steps)) == len(steps) == min(length, 10)
    middles = (np.arange(len(steps)) + 0.5) * length / len(steps)
    assert np.abs(np.add(steps, 0.5) - middles).max() <= 0.5


def test_frames_are_small_jpegs_of_their_steps():
  spec = replays.SPEC
  given, _ = episode(spec, 12, (4, 4))
  images = [np.full((300, 400, 3), 20 * step, np.uint8) for step in range(12)]
  found = replay.replay(replays.FakePolicy(spec, np.zeros((12, 3), np.int32)), given, images)
  assert len(found.frames) == replay.FILMSTRIP
  for step, jpeg in found.frames:
    picture = Image.open(io.BytesIO(jpeg))
    assert picture.format == 'JPEG' and picture.size == (192, 144)
    assert abs(np.asarray(picture, int) - 20 * step).max() <= 2


def test_token_numbers():
  assert replay.token_numbers(replays.SPEC) == [None, 3, 4]


def test_empty_episode_is_left_out():
  policy = replays.FakePolicy(replays.SPEC, np.zeros((3, 3), np.int32))
  given, images = episode(replays.SPEC, 3, (8, 8))
  stored = [Episode(n, np.stack(images)[:k], given.embeddings[:k], given.actions[:k], given.instructions[:k], None)
            for n, k in enumerate((0, 3))]
  found = list(replay.replay_all(policy, source(stored), 2))
  assert [(r.number, len(r)) for r in found] == [(1, 3)]


def test_broken_image_is_named():
  given, _ = episode(replays.SPEC, 3, (8, 8))
  broken = Episode(4, np.array([b'no picture'] * 3, object), *(
      getattr(given, name) for name in ('embeddings', 'actions', 'instructions')), None)
  policy = replays.FakePolicy(replays.SPEC, np.zeros((3, 3), np.int32))
  with pytest.raises(ValueError, match='robots, episode 4: an image cannot be decoded'):
    list(replay.replay_all(policy, source([broken], tfds.features.Image(shape=(8, 8, 3))), 1))


def source(stored: list[Episode], feature=None):
  """What replay_all uses of a Dataset."""
  return types.SimpleNamespace(
      name='robots', views=(), image_feature=feature or tfds.features.Tensor(shape=(8, 8, 3), dtype=np.uint8),
      num_episodes=len(stored), chunks=lambda count: [], read=lambda chunks: iter(stored))


@pytest.mark.parametrize(('spec', 'encoder', 'split', 'message'), [
    (actions.ARM_7D, 'hashed-ngrams/1', 'val', "of 'hashed-ngrams/1', the dataset .* holds .*sentence-encoder"),
    (actions.ARM_7D, '', 'test', "split 'test' cannot be had"),
    (ActionSpec((ActionField('wheels', 2),)), '', 'val', r"gives no \['wheels'\]"),
])
def test_what_does_not_fit(tmp_path, spec, encoder, split, message):
  policy = replays.FakePolicy(spec, np.zeros((4, spec.num_tokens), np.int32), encoder)
  folder = replays.bridge(tmp_path)
  with pytest.raises(ValueError, match=message):
    list(replay.replay_all(policy, replay.open_dataset(policy, str(folder), split), 1))
