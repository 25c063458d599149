import dataclasses
import json
import subprocess
import sys

import pytest
from helpers.paths import ROOT

import train
from rtjax import actions, configs
from rtjax.models import MultiviewConfig, RT1Config, config_from_dict
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig
from rtjax.training import config


def run(*words):
  command = [sys.executable, ROOT / 'train.py', *map(str, words)]
  return subprocess.run(command, capture_output=True, text=True, check=False)


def parse(capsys, *words):
  with pytest.raises(SystemExit) as ended:
    config.parse(words)
  captured = capsys.readouterr()
  return ended.value.code, captured.out, captured.err


def test_every_preset_builds_and_says_what_it_is():
  assert {'rt1', 'rt1_finetune', 'rt1_multiview', 'bridge_sample', 'reach'} <= set(configs.names())
  for name in configs.names():
    preset = configs.get(name)
    assert isinstance(preset, config.TrainConfig) and (name == 'rt1_x' or preset.data == ())
    assert configs.summary(name).endswith('.')
    assert config_from_dict(preset.to_dict()['model']) == preset.model
    assert f'python train.py {name}' in sys.modules[f'rtjax.configs.{name}'].__doc__


def test_rt1_is_the_official_recipe():
  rt1 = configs.get('rt1')
  assert rt1.batch_size == 256 and rt1.optimizer.learning_rate == 1e-4 and rt1.model == RT1Config()
  assert rt1.optimizer.warmup_steps > 0 and rt1.optimizer.end_learning_rate == 0


def test_a_command_line():
  found = config.parse(['rt1', '--data', 'one', 'two', '--model.action-spec', 'arm7d', '--model.window', '3',
                        '--mesh', '2', '4', '1', '--optimizer.learning-rate', '3e-4', '--no-tensorboard',
                        '--pipeline.weights', '1', '2'])
  assert found.data == ('one', 'two') and found.output == 'checkpoints/rt1' and found.mesh == (2, 4, 1)
  assert found.model == dataclasses.replace(RT1Config(), action_spec=actions.ARM_7D, window=3)
  assert found.optimizer.learning_rate == 3e-4 and not found.tensorboard and found.pipeline.weights == (1.0, 2.0)


def test_the_preset_decides_the_network():
  found = config.parse(['rt1_multiview', '--model.views', '1', '--model.window', '6', '--model.encoder.padding',
                        'same'])
  assert found.model == MultiviewConfig(views=1, window=6, encoder=EfficientNetConfig(padding='same'))
  assert found.pipeline.proprioception and configs.get('rt1_multiview').model == MultiviewConfig()


def test_a_preset_with_an_action_spec_of_its_own(monkeypatch):
  own = RT1Config(action_spec=actions.ActionSpec((actions.ActionField('wheel', 2),)))
  monkeypatch.setattr(configs, 'get', lambda name: config.TrainConfig(model=own))
  assert config.parse(['rt1']).model == own


def test_list_usage_and_help(capsys):
  code, out, _ = parse(capsys, '--list')
  assert code == 0 and [line.split()[0] for line in out.splitlines()] == configs.names()
  code, out, _ = parse(capsys)
  assert code == 0 and 'python train.py PRESET --data' in out
  code, out, _ = parse(capsys, 'rt1', '--help')
  specs = ','.join(actions.SPECS)
  assert code == 0 and f'--model.action-spec {{{specs}}}' in out and '--micro-batches' in out
  assert 'stages' not in out and 'fields' not in out


@pytest.mark.parametrize('words, expected', [
    (['rt1x'], "unknown preset 'rt1x', expected one of"),
    (['rt11'], "Did you mean 'rt1'?"),
    (['rt1', '--stpes', '3'], '--steps'),
    (['rt1', '--model.windw', '3'], '--model.window'),
    (['rt1_multiview', '--model.horizon', '3'], '--model.horizon'),
    (['rt1_multiview', '--model.action-spec', 'rt1'], 'learned_tokens is 8'),
    (['rt1', '--steps', 'many'], 'invalid literal'),
    (['rt1', '--steps', '0'], 'steps is 0, it must be at least 1'),
    (['rt1', '--keep', '1'], 'keep is 1, it must be at least 2'),
    (['rt1', '--model.action-spec', 'arm'], "Did you mean 'arm7d'?"),
])
def test_what_cannot_be_parsed(capsys, words, expected):
  code, _, err = parse(capsys, *words)
  assert code == 2 and expected in err and 'Traceback' not in err


def test_errors_are_one_line(tmp_path):
  for words, expected in [
      (['rt1'], 'error: no data to train on'),
      (['rt1', '--data', tmp_path / 'nothing'], 'error: '),
      (['rt1', '--data', 'x', '--mesh', '3', '1', '1'], 'error: mesh is (3, 1, 1)')]:
    done = run(*words, '--output', tmp_path / 'run')
    assert done.returncode == 2 and 'Traceback' not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith(expected)


def test_the_end_says_where_the_results_are(monkeypatch, capsys, tmp_path):
  from rtjax.training import loop
  monkeypatch.setattr(sys, 'argv', ['train.py', 'reach', '--data', 'folder'])
  outcome = loop.Outcome(tmp_path, 300, True, 200, {})
  monkeypatch.setattr(loop, 'train', lambda config: outcome)
  train.main()
  out = capsys.readouterr().out
  assert f'python eval.py {tmp_path} --dataset folder' in out and f'{tmp_path}/checkpoints/200' in out
  outcome = dataclasses.replace(outcome, finished=False, step=7)
  with pytest.raises(SystemExit) as ended:
    train.main()
  assert ended.value.code == 1 and 'saved at step 7' in capsys.readouterr().out


def test_trains_resumes_and_starts_from_real_episodes(tmp_path, shared, monkeypatch):
  """A few steps of train.py itself on robot data: train, resume, start another run from the first."""
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')  # compiles quickly
  small = ['--data', shared / 'data' / 'bridge_dataset', '--batch-size', 2, '--model.layers', 1,
           '--model.window', 2, '--pipeline.cache-dir', tmp_path / 'cache', '--log-every', 1, '--validation-batches', 1]
  first = run('bridge_sample', *small, '--steps', 3, '--output', tmp_path / 'first')
  assert first.returncode == 0, first.stderr
  assert 'step 3/3: loss' in first.stdout and 'python eval.py' in first.stdout
  rows = [json.loads(line) for line in (tmp_path / 'first' / 'metrics.jsonl').read_text().splitlines()]
  assert {'validation/accuracy_per_token/gripper', 'validation/accuracy_per_step/slot1',
          'validation/l1/translation[0]'} <= rows[-1].keys()
  assert list((tmp_path / 'first' / 'tensorboard').iterdir())
  second = run('bridge_sample', *small, '--steps', 2, '--output', tmp_path / 'second', '--model.horizon', 2,
               '--init-from', tmp_path / 'first')
  assert second.returncode == 0, second.stderr
  assert 'in part: transformer/position/kernel' in second.stdout and 'left out: 0 variables' in second.stdout
  again = run('bridge_sample', *small, '--steps', 4, '--output', tmp_path / 'first')
  assert again.returncode == 2 and 'steps: 3 there, 4 now' in again.stderr
