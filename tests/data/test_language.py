"""Instructions of RLDS datasets: computed vectors, missing ones, and texts that are none."""
import dataclasses

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers import tiny_rlds

from rtjax import actions
from rtjax.data import DataConfig, statistics, validation_batches
from rtjax.data.rlds.episodes import Dataset
from rtjax.language.instructions import Table, hashed_ngrams

SPEC = actions.ARM_7D
ONES = np.ones(512, np.float32)


def episode(number, text, vector=ONES, length=2):
  return tiny_rlds.steps(number, length, language_instruction=text, language_embedding=vector)


def without_vectors(folder, texts, **options):
  """Write a dataset in bridge_dataset's layout that stores no vectors."""
  steps = dict(tiny_rlds.features()['steps'].feature.items())
  del steps['language_embedding']
  episodes = [episode(i, text) for i, text in enumerate(texts)]
  for recorded in episodes:
    for step in recorded:
      del step['language_embedding']
  layout = tfds.features.FeaturesDict({'steps': tfds.features.Dataset(steps)})
  return tiny_rlds.write(folder, episodes, layout=layout, **options)


@pytest.fixture
def config(tmp_path):
  return DataConfig(cache_dir=str(tmp_path / 'cache'), encoder='hashed-ngrams/1', shuffle_episodes=4)


@pytest.fixture
def mixed(tmp_path):
  """Four episodes: one without a text, one of emoji, one with zero vectors."""
  return tiny_rlds.write(tmp_path, [episode(0, 'pick'), episode(1, ''), episode(2, '🍎'), episode(3, 'put', ONES * 0)])


def test_vectors_are_computed_while_reading(tmp_path, config):
  folder = without_vectors(tmp_path, ['grünen Würfel', 'ro\u0308te'])
  found = statistics([folder], config, SPEC)[folder]
  assert found['embedding_id'] == 'hashed-ngrams/1'
  expected = {i: hashed_ngrams(text) for i, text in enumerate(['grünen Würfel', 'röte'])}
  np.testing.assert_allclose(found['instruction']['mean'], (expected[0] + expected[1]) / 2, rtol=1e-6)
  with tiny_rlds.stream(folder, config, batch_size=4) as stream:
    batch = next(stream)
  for row, number in enumerate(batch['episodes']):
    np.testing.assert_array_equal(batch['instruction'][row][batch['frame_mask'][row]][0], expected[number])


def test_the_named_encoder_replaces_vectors_of_another(tmp_path, config):
  folder = tiny_rlds.write(tmp_path, [episode(0, 'pick')])
  dataset = statistics([folder], config, SPEC)[folder]
  assert dataset['embedding_id'] == 'hashed-ngrams/1'
  np.testing.assert_allclose(dataset['instruction']['mean'], hashed_ngrams('pick'), rtol=1e-6)
  table = tmp_path / 'table.npz'
  Table('universal-sentence-encoder-large/5', ('pick',), ONES[None] * 7).save(table)
  stored = statistics([folder], dataclasses.replace(config, encoder=str(table)), SPEC)[folder]
  np.testing.assert_array_equal(stored['instruction']['mean'], ONES)  # of the same encoder, so as recorded


def test_a_model_that_reads_text_needs_no_vectors(tmp_path, config):
  folder = without_vectors(tmp_path, ['pick'], split='val')
  config = dataclasses.replace(config, encoder='none', split='val')
  found = statistics([folder], config, SPEC)[folder]
  assert found['embedding_id'] == '' and found['instruction'] is None
  (batch,) = validation_batches([folder], config, SPEC, window=2, horizon=1, batch_size=2)
  assert 'instruction' not in batch and list(batch['instructions']) == ['pick', 'pick']


def test_without_an_encoder_the_flag_is_named(tmp_path):
  with pytest.raises(ValueError, match=r"no 'language_embedding'.*--pipeline\.encoder hashed-ngrams/1"):
    Dataset(without_vectors(tmp_path, ['pick']), 'train', SPEC)


def test_unlabelled_episodes_are_counted_and_reported(mixed, config):
  stored = dataclasses.replace(config, encoder='')
  with pytest.warns(UserWarning, match=r'zeros: 6 of 8, among them all of 3 of 4 episodes\..*drop-unlabelled'):
    found = statistics([mixed], stored, SPEC)[mixed]
  assert (found['episodes'], found['unlabelled_episodes'], found['unlabelled_steps']) == (4, 3, 6)
  with pytest.warns(UserWarning, match='3 of 4 episodes'):  # from the cache, too
    statistics([mixed], stored, SPEC)
  with pytest.warns(UserWarning, match='2 of 4 episodes'):  # the last one has a text, whose vector is computed
    assert statistics([mixed], config, SPEC)[mixed]['unlabelled_episodes'] == 2


def test_unlabelled_steps_of_other_episodes_are_reported(tmp_path, config):
  steps = tiny_rlds.steps(1, 3)
  steps[1]['language_instruction'] = ''
  folder = tiny_rlds.write(tmp_path, [steps, tiny_rlds.steps(2, 4)])
  with pytest.warns(UserWarning, match=r'of zeros: 1 of 7\. .*; convert the dataset again'):
    statistics([folder], dataclasses.replace(config, encoder=''), SPEC)


def test_unlabelled_episodes_can_be_left_out(mixed, config):
  config = dataclasses.replace(config, encoder='', drop_unlabelled=True)
  with pytest.warns(UserWarning, match='3 episodes have no instruction, and are left out'):
    found = statistics([mixed], config, SPEC)[mixed]
  assert (found['episodes'], found['steps'], found['unlabelled_episodes']) == (1, 2, 3)
  with tiny_rlds.stream(mixed, config, batch_size=4) as stream:
    assert {number for _ in range(4) for number in next(stream)['episodes']} == {0}


def test_nothing_left_is_an_error(tmp_path, config):
  folder = tiny_rlds.write(tmp_path, [episode(0, ''), episode(1, '...')])
  config = dataclasses.replace(config, drop_unlabelled=True)
  with pytest.raises(ValueError, match=r'no episode .*has a step and an instruction'):
    statistics([folder], config, SPEC)
  with pytest.raises(ValueError, match='no episode'), tiny_rlds.stream(folder, config) as stream:
    next(stream)


@pytest.mark.parametrize('raw', ['grün'.encode('latin-1'), 'gr\ufffdn'.encode()])
def test_undecodable_bytes_are_named_or_left_out(raw, tmp_path):
  folder = tiny_rlds.write(tmp_path, [episode(0, 'pick'), episode(1, raw)])
  with pytest.raises(ValueError, match=r"episode 1 of 'train': the text .*UTF-8.*--pipeline\.drop-unlabelled"):
    list(Dataset(folder, 'train', SPEC).read_all())
  assert [e.number for e in Dataset(folder, 'train', SPEC, drop_unlabelled=True).read_all()] == [0]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
  folder = tiny_rlds.write(tmp_path, [episode(0, '\ufeffpick  up'.encode())])
  (read,) = Dataset(folder, 'train', SPEC).read_all()
  assert list(read.instructions) == ['pick up'] * 2
