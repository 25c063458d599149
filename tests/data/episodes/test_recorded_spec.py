"""ActionSpec from the logs to the configuration of training."""
import json
import pathlib
import shutil
import sys

import numpy as np
import pytest
from helpers import robot_logs, tiny_rlds

from rtjax import actions, data, train
from rtjax.data.convert import __main__ as command
from rtjax.data.episodes.recorded_spec import recorded_spec
from rtjax.runtime import serialization


def convert(monkeypatch, folder, name, scale, *options):
  """Convert three episodes whose translations go up to `scale`; return the dataset's folder."""
  episodes = {f'e{number}': robot_logs.episode(number) for number in range(3)}
  for arrays in episodes.values():
    arrays['action'][:, :3] *= scale / 0.02
  logs = robot_logs.write_npz(folder / f'{name}_logs', episodes)
  monkeypatch.setattr(sys, 'argv', ['convert', *map(str, (logs, '--name', name, '--out', folder, *options))])
  command.main()
  return str(folder / name / '1.0.0')


@pytest.fixture
def fast(tmp_path, monkeypatch):
  return convert(monkeypatch, tmp_path, 'fast', 0.12, '--bounds', 'quantiles')


def test_training_takes_the_bounds_that_the_converter_found(fast, tmp_path, monkeypatch, capsys):
  words = ['my_robot', '--data', fast]
  config = train.with_recorded_actions(train.parse(words), words)
  spec = config.model.action_spec
  assert spec == data.recorded_spec([fast]) == actions.get(f'{fast}/action_spec.json')
  assert 0.1 < spec.fields[0].high[0] <= 0.12 and spec.fields[2] == actions.ARM_7D.fields[2]
  assert 'Actions as the data describes them' in capsys.readouterr().out
  found = data.statistics([fast], data.DataConfig(cache_dir=str(tmp_path)), spec)[fast]
  assert max(found['action']['clipped']) <= 0.01
  with pytest.raises(ValueError, match=r'--model.action-spec FILE.json.*--bounds quantiles.*--pipeline.allow-clipping'):
    data.statistics([fast], data.DataConfig(cache_dir=str(tmp_path)), actions.ARM_7D)
  own = tmp_path / 'own.json'
  own.write_text(json.dumps(serialization.to_json(actions.POSE_7D)))
  for flag in (['--model.action-spec', str(own)], ['--model.action_spec', str(own)]):
    config = train.with_recorded_actions(train.parse([*words, *flag]), [*words, *flag])
    assert config.model.action_spec == actions.POSE_7D


def test_datasets_without_a_spec_and_with_different_ones(fast, tmp_path, monkeypatch):
  slow = convert(monkeypatch, tmp_path, 'slow', 0.02)
  assert data.recorded_spec([slow]) == actions.ARM_7D
  bare = tiny_rlds.write_lengths(tmp_path / 'bare', [3])
  assert data.recorded_spec([bare]) is None and data.recorded_spec([bare, slow]) is None
  assert data.recorded_spec([]) is None
  with pytest.raises(ValueError, match=r'different ActionSpecs.*fast.*slow.*--model.action-spec'):
    data.recorded_spec([fast, slow])


def test_files_that_hold_no_spec(tmp_path):
  file = tmp_path / 'some.json'
  file.write_text('{"fields": []}')
  with pytest.raises(ValueError, match=r'some.json is no ActionSpec.*"vocab_size": 256'):
    actions.get(str(file))
  with pytest.raises(FileNotFoundError):
    actions.get(str(tmp_path / 'none.json'))
  np.testing.assert_array_equal(actions.get('arm7d').bounds, actions.ARM_7D.bounds)


@pytest.mark.parametrize('change', [{'size': 10 ** 9}, {'bins': 10 ** 9}, {'low': -1e308, 'high': 1e308},
                                    {'low': 1.0, 'high': 1.0 + 1e-9}, {'low': float('nan')}])
def test_action_specs_of_a_dataset(small, tmp_path, change):
  folder = pathlib.Path(shutil.copytree(small, tmp_path / 'data'))
  field = {'name': 'a', 'size': 3, 'low': 0.0, 'high': 1.0} | change
  (folder / 'metadata.json').write_text(json.dumps({'action_spec': {'fields': [field], 'vocab_size': 256}}))
  with pytest.raises(ValueError, match=r"metadata\.json.*ActionField 'a': .*" + next(iter(change))):
    recorded_spec([str(folder)])
