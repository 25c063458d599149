"""Statistics against NumPy, and their cache."""
import dataclasses
import json
import os
import pathlib
import re

import numpy as np
import pytest
from helpers import tiny_rlds

from rtjax import actions
from rtjax.data import DataConfig, statistics
from rtjax.data.rlds import adapters, episodes

SPEC = actions.ARM_7D
LENGTHS = [3, 9, 1, 12]


@pytest.fixture
def config(tmp_path):
  return DataConfig(cache_dir=str(tmp_path / 'cache'))


@pytest.fixture
def reads(monkeypatch):
  """Record the numbers of the episodes that are read from files."""
  read = []
  original = episodes.Dataset._episode
  monkeypatch.setattr(episodes.Dataset, '_episode', lambda *args: read.append(args[1]) or original(*args))
  return read


def check(found, values):
  for name, expected in {'mean': values.mean(0), 'std': values.std(0), 'min': values.min(0), 'max': values.max(0),
                         'q01': np.quantile(values, 0.01, 0), 'q99': np.quantile(values, 0.99, 0)}.items():
    np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-8, err_msg=name)


def test_numbers(tmp_path, config):
  folder = tiny_rlds.write_lengths(tmp_path, LENGTHS, 2)
  result = statistics([folder], config, SPEC)
  found = json.loads(json.dumps(result))[folder]
  steps = [(i, t) for i, length in enumerate(LENGTHS) for t in range(length)]
  check(found['action'], np.array([tiny_rlds.action(*step) for step in steps], float))
  check(found['proprioception'], np.array(steps, float))
  assert found['episodes'] == 4 and found['steps'] == 25 and found['split'] == 'train'
  assert found['action']['names'] == list(SPEC.dimension_names) and found['action']['clipped'] == [0] * 7
  embeddings = np.stack([tiny_rlds.embedding(*step) for step in steps])
  np.testing.assert_allclose(found['instruction']['mean'], embeddings.mean(0), rtol=1e-5)
  np.testing.assert_allclose(found['instruction']['std'], embeddings.std(0), rtol=1e-5)
  assert found['image_size'] == list(tiny_rlds.IMAGE[:2]) and found['renderer'] is None
  assert found['embedding_id'] == adapters.get('bridge_dataset').embedding_id


def test_bridge(shared, config):
  folder = str(shared / 'data/bridge_dataset')
  found = statistics([folder], config, SPEC)[folder]
  dataset = episodes.Dataset(folder, 'train', SPEC)
  values = np.concatenate([e.actions for e in dataset.read(dataset.chunks(25))])
  check(found['action'], values.astype(float))
  np.testing.assert_allclose(found['action']['clipped'], SPEC.clipped(values).mean(0))
  assert 0 < max(found['action']['clipped']) < 0.01


def test_cache_is_used_until_something_changes(tmp_path, config, reads, monkeypatch):
  folder = tiny_rlds.write_lengths(tmp_path, LENGTHS, 2)
  first = statistics([folder], config, SPEC)
  assert sorted(reads) == [0, 1, 2, 3]

  def count(datasets=(folder,), config=config, spec=SPEC):
    reads.clear()
    found = statistics(list(datasets), config, spec)
    return len(reads), found

  assert count() == (0, first)
  assert count(config=DataConfig(cache_dir=config.cache_dir, split='train[:2]'))[0] == 2
  wider = actions.ActionSpec((*SPEC.fields[:2], actions.ActionField('gripper', 1, -1.0, 1.0)))
  assert count(spec=wider)[0] == 4
  file = pathlib.Path(folder) / 'bridge_dataset-train.tfrecord-00000-of-00002'
  os.utime(file, (0, 0))
  assert count()[0] == 4 and count()[0] == 0
  bridge = adapters.get('bridge_dataset')
  monkeypatch.setitem(adapters.ADAPTERS, 'bridge_dataset', adapters.Adapter(
      'bridge_dataset', lambda steps: bridge.action(steps), bridge.image, bridge.instruction, bridge.embedding))
  changed, found = count()
  assert changed == 4 and found[folder]['proprioception'] is None
  for entry in pathlib.Path(config.cache_dir).rglob('*.json'):
    entry.write_text('{"half an ent')
  assert count()[0] == 4 and count()[0] == 0


def test_a_cache_that_cannot_be_written_warns(tmp_path):
  folder = tiny_rlds.write_lengths(tmp_path, [2])
  (tmp_path / 'file').write_text('')
  with pytest.warns(UserWarning, match='cannot be stored'):
    assert statistics([folder], DataConfig(cache_dir=str(tmp_path / 'file/cache')), SPEC)[folder]['steps'] == 2


def test_clipping_is_refused_unless_allowed(tmp_path, config):
  steps = tiny_rlds.steps(0, 50)
  steps[7]['action'][4] = 0.3
  folder = tiny_rlds.write(tmp_path, [steps])
  words = r'rotation\[1\] 2\.0% outside \[-0\.25, 0\.25\].*--pipeline\.allow-clipping'
  with pytest.raises(ValueError, match=words) as error:
    statistics([folder], config, SPEC)
  assert 'translation' not in str(error.value)
  allowed = statistics([folder], DataConfig(cache_dir=config.cache_dir, allow_clipping=True), SPEC)
  np.testing.assert_allclose(allowed[folder]['action']['clipped'], [0, 0, 0, 0, 0.02, 0, 0])
  half = tiny_rlds.write(tmp_path / 'half', [steps, tiny_rlds.steps(1, 50)])
  np.testing.assert_allclose(statistics([half], config, SPEC)[half]['action']['clipped'][4], 0.01)  # not above 1 %


def test_the_clipping_of_an_adapter_counts(tmp_path, config):
  """RT-1's fields of an arm end at 5 cm, within the bounds of RT-1-X."""
  steps = tiny_rlds.steps(0, 50)
  steps[7]['action'][0], steps[9]['action'][5] = 0.08, -0.4
  folder = tiny_rlds.write(tmp_path, [steps])
  with pytest.raises(ValueError, match=(
      r'world_vector\[0\] 2\.0% .*2\.0% beyond what the adapter maps to it.*rotation_delta\[2\] 2\.0%')):
    statistics([folder], config, actions.RT1_X)
  allowed = dataclasses.replace(config, allow_clipping=True)
  found = statistics([folder], allowed, actions.RT1_X)[folder]['action']
  shares = dict(zip(found['names'], found['clipped_by_adapter'], strict=True))
  assert {name: share for name, share in shares.items() if share} == {'world_vector[0]': 0.02,
                                                                      'rotation_delta[2]': 0.02}
  assert not any(statistics([folder], allowed, SPEC)[folder]['action']['clipped_by_adapter'])


def test_numbers_far_from_all_others_are_named(tmp_path, config):
  """Below 1e10, where nothing is an error."""
  steps = tiny_rlds.steps(1, 60)
  steps[7]['action'][2], steps[9]['observation']['state'] = 4e6, [1, 3e8]
  steps[5]['language_embedding'] = np.full(512, 5000, np.float32)
  folder = tiny_rlds.write(tmp_path, [tiny_rlds.steps(0, 60), steps])
  allowed = dataclasses.replace(config, allow_clipping=True)
  for _ in range(2):  # from the cache, too
    with pytest.warns(UserWarning, match='Absurd numbers') as warned:
      statistics([folder], allowed, SPEC)
    text = next(str(w.message) for w in warned if 'Absurd' in str(w.message))
    for words in ('action translation[2] is 4e+06 in episode 1, step 7, and',
                  'observation/state[1] is 3e+08 in episode 1, step 9',
                  'instruction vector is 5000 in episode 1, step 5'):
      assert words in text


@pytest.mark.parametrize('value', [np.nan, -np.inf, 1e30])
@pytest.mark.parametrize(('field', 'words'), [
    ('action', r'action translation\[2\] is'), ('language_embedding', 'language_embedding 2 is'),
    ('state', 'observation/state 1 is')])
def test_unusable_numbers_are_named(tmp_path, config, value, field, words):
  steps = tiny_rlds.steps(0, 5)
  numbers = np.array(steps[3]['observation']['state'] if field == 'state' else steps[3][field], np.float32)
  numbers[1 if field == 'state' else 2] = value
  (steps[3]['observation'] if field == 'state' else steps[3])[field] = numbers
  folder = tiny_rlds.write(tmp_path, [tiny_rlds.steps(1, 4), steps])
  with pytest.raises(ValueError, match=rf"episode 1 of 'train', step 3: {words} {re.escape(f'{value:g}')}\."):
    statistics([folder], config, SPEC)
  with pytest.raises(ValueError, match='step 3'):  # whose map clips
    statistics([folder], config, actions.RT1)


def test_an_unusable_gripper_becomes_no_command(tmp_path, config):
  steps = tiny_rlds.steps(0, 5)
  steps[3]['action'][6] = np.nan
  with pytest.raises(ValueError, match='step 3: action gripper_closedness_action is nan'):
    statistics([tiny_rlds.write(tmp_path, [steps])], config, actions.RT1)
