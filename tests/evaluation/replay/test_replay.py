"""Replays, compared with the model and with datasets read by TFDS."""
import io
import types

import numpy as np
import pytest
import scipy.special
import tensorflow_datasets as tfds
from helpers import replays
from PIL import Image

from rtjax import actions, models
from rtjax.actions import ActionSpec
from rtjax.data.episode import Episode
from rtjax.data.images import decoder as image_decoder
from rtjax.evaluation.replay import replay
from rtjax.policies.policy import Policy
from rtjax.policies.recorded import open_dataset
from rtjax.runtime.html.frames import FILMSTRIP_FRAMES


def episode(spec: ActionSpec, length: int, size: tuple[int, int]) -> tuple[Episode, list[np.ndarray]]:
  draw = np.random.default_rng(length)
  low, high = spec.bounds
  images = list(draw.integers(0, 256, (length, *size, 3), np.uint8))
  return Episode(
      number=7, images=None, embeddings=draw.normal(size=(length, 512)).astype(np.float32),
      actions=draw.uniform(low, high, (length, spec.size)).astype(np.float32),
      instructions=np.array(['open the drawer'] * length, object), proprioception=None,
      limited=np.zeros((length, spec.size), bool)), images


def test_equals_the_model_on_complete_windows():
  spec = actions.ARM_7D
  config = replays.tiny_config(spec)
  model = models.build(config, seed=0)
  recorded, images = episode(spec, 5, (40, 32))
  result = replay.replay_episode(Policy(model), recorded, images)
  for step in range(5):
    window = slice(max(0, step + 1 - config.window), step + 1)
    logits = np.asarray(model(np.stack(images)[None, window], recorded.embeddings[None, window]))[0, -1]
    np.testing.assert_array_equal(result.predicted_tokens[step], logits.argmax(-1))
    np.testing.assert_allclose(result.confidence[step], scipy.special.softmax(logits, -1).max(-1), rtol=1e-3)
  np.testing.assert_array_equal(result.predicted, spec.detokenize(result.predicted_tokens))
  np.testing.assert_array_equal(result.recorded, recorded.actions)
  np.testing.assert_array_equal(result.recorded_tokens, spec.tokenize(recorded.actions))
  assert (result.number, result.instruction, len(result)) == (7, 'open the drawer', 5)
  assert np.all(result.seconds > 0)


def test_episodes_are_those_of_the_dataset(tmp_path):
  folder = replays.bridge(tmp_path, lengths=(4, 2, 3))
  spec = actions.ARM_7D
  tokens = np.random.default_rng(0).integers(0, 256, (4, 7)).astype(np.int32)
  policy = replays.FakePolicy(spec, tokens, 'universal-sentence-encoder-large/5')
  dataset = open_dataset(policy, str(folder), 'val')
  stored = [e['steps'] for e in tfds.as_numpy(tfds.builder_from_directory(folder).as_dataset(split='val'))]
  count = 0
  for result, steps in zip(replay.replay_dataset(policy, dataset, 2), stored, strict=False):
    steps = list(steps)
    length = len(steps)
    np.testing.assert_array_equal(result.recorded, [s['action'] for s in steps])
    np.testing.assert_array_equal(result.predicted_tokens, tokens[:length])
    np.testing.assert_array_equal(policy.images, [s['observation']['image_0'] for s in steps])
    np.testing.assert_array_equal(policy.embeddings, [s['language_embedding'] for s in steps])
    assert (result.number, result.instruction) == (count, 'pick the red cube')
    assert [step for step, _ in result.frames] == list(range(length))
    count += 1
  assert count == 2


def test_several_views_and_proprioception(tmp_path):
  folder = replays.bridge(tmp_path, lengths=(3,))
  tokens = np.zeros((3, 7), np.int32)
  policy = replays.FakePolicy(actions.ARM_7D, tokens, 'universal-sentence-encoder-large/5', ('image', 'image_1'), 7)
  dataset = open_dataset(policy, str(folder), 'val')
  result, = replay.replay_dataset(policy, dataset, 1)
  stored = list(next(iter(tfds.builder_from_directory(folder).as_dataset(split='val')))['steps'].as_numpy_iterator())
  for step, recorded in enumerate(stored):
    views = [recorded['observation'][name] for name in ('image_0', 'image_1')]
    np.testing.assert_array_equal(policy.images[step], views)
    np.testing.assert_allclose(policy.states[step], recorded['observation']['state'])
  assert len(result.frames) == 3


def test_correct_tokens():
  result = replays.replay([[0, 1, 2], [1, 1, 1]], [[0, 2, 2], [1, 1, 0]])
  np.testing.assert_array_equal(result.correct, [[True, False, True], [True, True, False]])


def test_frames_are_small_jpegs_of_their_steps():
  spec = replays.SPEC
  recorded, _ = episode(spec, 12, (4, 4))
  images = [np.full((300, 400, 3), 20 * step, np.uint8) for step in range(12)]
  result = replay.replay_episode(replays.FakePolicy(spec, np.zeros((12, 3), np.int32)), recorded, images)
  assert len(result.frames) == FILMSTRIP_FRAMES
  for step, jpeg in result.frames:
    image = Image.open(io.BytesIO(jpeg))
    assert image.format == 'JPEG' and image.size == (192, 144)
    assert abs(np.asarray(image, int) - 20 * step).max() <= 2


def test_token_dimensions():
  assert replay.token_dimensions(replays.SPEC) == [None, 3, 4]


def test_empty_episode_is_skipped():
  policy = replays.FakePolicy(replays.SPEC, np.zeros((3, 3), np.int32))
  recorded, images = episode(replays.SPEC, 3, (8, 8))
  stored = [Episode(number, np.stack(images)[:steps], recorded.embeddings[:steps], recorded.actions[:steps],
                    recorded.instructions[:steps], None, recorded.limited[:steps])
            for number, steps in enumerate((0, 3))]
  result = list(replay.replay_dataset(policy, source(stored), 2))
  assert [(r.number, len(r)) for r in result] == [(1, 3)]


def test_broken_image_is_named():
  recorded, _ = episode(replays.SPEC, 3, (8, 8))
  broken = Episode(4, np.array([b'no image'] * 3, object), *(
      getattr(recorded, name) for name in ('embeddings', 'actions', 'instructions', 'proprioception', 'limited')))
  policy = replays.FakePolicy(replays.SPEC, np.zeros((3, 3), np.int32))
  with pytest.raises(ValueError, match='robots, episode 4: an image cannot be decoded'):
    list(replay.replay_dataset(policy, source([broken], tfds.features.Image(shape=(8, 8, 3))), 1))


def source(stored: list[Episode], feature=None):
  """The attributes of a Dataset that a replay reads."""
  decode = image_decoder(feature or tfds.features.Tensor(shape=(8, 8, 3), dtype=np.uint8), None)
  return types.SimpleNamespace(
      name='robots', views=(), decoder=lambda size: lambda e, steps, view: (decode(e.images[step]) for step in steps),
      num_records=len(stored), read_all=lambda: iter(stored))
