"""Command line of train.py: presets, flags, help, errors, a complete run."""
import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest
from helpers.paths import ROOT

from rtjax import actions, configs, train
from rtjax.models import RT1Config, RT1MultiviewConfig
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig
from rtjax.runtime import serialization
from rtjax.training.config import MeshConfig, TrainConfig, VisionLanguageInit


def run(*words, **variables):
  command = [sys.executable, ROOT / 'train.py', *map(str, words)]
  return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)


def run_here(monkeypatch, *words):
  """Run the command in this process."""
  monkeypatch.setattr(sys, 'argv', ['train.py', *map(str, words)])
  train.main()


def parse(capsys, *words):
  with pytest.raises(SystemExit) as ended:
    train.parse(words)
  captured = capsys.readouterr()
  return ended.value.code, captured.out, captured.err


def shown_flags(text):
  return re.findall(r'^. (?:-[hH], )?(--[a-z][^ ,]*)', text, re.MULTILINE)


def test_every_preset_builds_and_documents_itself():
  assert {'rt1', 'rt1_finetune', 'rt1_multiview', 'bridge_sample', 'reach'} <= set(configs.names())
  for name in configs.names():
    preset = configs.get(name)
    assert isinstance(preset, TrainConfig) and (name == 'rt1_x' or preset.data == ())
    assert configs.summary(name).endswith('.') and len(configs.summary(name).split()) <= 12
    assert serialization.from_json(serialization.to_json(preset), TrainConfig) == preset
    assert f'python train.py {name}' in sys.modules[f'rtjax.configs.{name}'].__doc__


def test_rt1_is_the_official_recipe():
  rt1 = configs.get('rt1')
  assert rt1.batch_size == 256 and rt1.optimizer.learning_rate == 1e-4
  assert rt1.optimizer.warmup_steps > 0 and rt1.optimizer.end_learning_rate == 0
  assert rt1.model == RT1Config(dtype='bfloat16')  # all else is the official network


def test_imagenet_is_no_path():
  train._require_paths(train.parse(['rt1', '--init.weights', 'imagenet']))
  with pytest.raises(FileNotFoundError, match='no model at image_net'):
    train._require_paths(train.parse(['rt1', '--init.weights', 'image_net']))


def test_a_command_line():
  found = train.parse(['rt1', '--data', 'one', 'two', '--model.action-spec', 'arm7d', '--model.window', '3',
                       '--mesh.data', '-1', '--mesh.fsdp', '4', '--optimizer.learning-rate', '3e-4',
                       '--logging.no-tensorboard', '--pipeline.weights', '1', '2'])
  assert found.data == ('one', 'two') and found.output == 'checkpoints/rt1' and found.mesh == MeshConfig(-1, 4)
  assert found.model == RT1Config(action_spec=actions.ARM_7D, window=3, dtype='bfloat16')
  assert found.optimizer.learning_rate == 3e-4 and found.pipeline.weights == (1.0, 2.0)
  assert not found.logging.tensorboard


def test_the_preset_decides_the_network():
  found = train.parse(['rt1_multiview', '--model.views', '1', '--model.window', '6', '--model.encoder.padding',
                       'same'])
  assert found.model == RT1MultiviewConfig(views=1, window=6, encoder=EfficientNetConfig(padding='same'),
                                           dtype='bfloat16')
  assert found.pipeline.proprioception
  assert configs.get('rt1_multiview').model == RT1MultiviewConfig(dtype='bfloat16')


def test_a_preset_with_a_new_action_spec(monkeypatch):
  own = RT1Config(action_spec=actions.ActionSpec((actions.ActionField('wheel', 2),)))
  monkeypatch.setattr(configs, 'get', lambda name: TrainConfig(model=own))
  assert train.parse(['rt1']).model == own


def test_list_usage_and_help(capsys):
  code, out, _ = parse(capsys, '--list')
  assert code == 0 and [line.split()[0] for line in out.splitlines()] == configs.names()
  code, out, _ = parse(capsys)
  assert code == 0 and 'python train.py PRESET --data' in out


def test_help_shows_the_common_settings_of_the_model(capsys):
  out = run('rt1', '--help', COLUMNS='120', PYTHONIOENCODING='utf-8').stdout
  flags, specs = shown_flags(out), ','.join([*actions.SPECS, 'FILE.json'])
  assert f'--model.action-spec {{{specs}}}' in out and '--grad-accum-steps' in out
  assert 'stages' not in out and 'fields' not in out
  assert 40 < len(flags) < 60 and len(out.splitlines()) <= 120  # two screens
  assert not [flag for flag in flags if flag.startswith(('--text.', '--init.vision', '--init.text', '--model.encoder'))]
  assert {'--init.prune', '--distillation.teacher', '--checkpoints.keep', '--mesh.distributed'} <= {*flags}
  _, out, _ = parse(capsys, 'rt1', '--help-verbose')
  assert {'--model.encoder.width', '--model.loss'} <= {*shown_flags(out)}


def test_help_of_a_vision_language_preset(capsys):
  code, out, _ = parse(capsys, 'rt2', '--help')
  assert code == 0 and not any(flag.startswith(('--distillation.', '--init.prune')) for flag in shown_flags(out))
  assert len(run('rt2', '--help', COLUMNS='120', PYTHONIOENCODING='utf-8').stdout.splitlines()) <= 135
  assert {'--text.data', '--text.loss-weight', '--init.vision', '--init.text',
          '--init.tokenizer', '--init.trainable', '--model.lora.rank'} <= {*shown_flags(out)}


def test_flags_of_a_vision_language_preset():
  found = train.parse(['rt2', '--init.vision', 'VIT', '--init.trainable', 'lora', '--model.lora.rank', '4',
                       '--text.data', 'one', 'two', '--text.pipeline.tasks.vqa', '3',
                       '--model.backbone.text.dropout', '0'])
  assert found.init == VisionLanguageInit(vision='VIT', trainable='lora')
  assert found.text.data == ('one', 'two') and found.text.pipeline.tasks.vqa == 3
  assert found.model.lora.rank == 4 and found.model.backbone.text.dropout == 0


@pytest.mark.parametrize('words, expected', [
    (['rt1', '--stpes', '3'], '--steps'),
    (['rt1', '--text.data', 'folder'], 'Unrecognized'),
    (['rt2', '--distillation.teacher', 'folder'], 'Unrecognized'),
    (['rt1', '--model.windw', '3'], '--model.window'),
    (['rt1_multiview', '--model.horizon', '3'], '--model.horizon'),
    (['rt1_multiview', '--model.action-spec', 'rt1'], 'learned_tokens is 8'),
    (['rt1', '--steps', 'many'], 'invalid literal'),
    (['rt1', '--steps', '0'], 'steps is 0, it must be at least 1'),
    (['rt1', '--checkpoints.keep', '1'], 'checkpoints.keep is 1, it must be at least 2'),
    (['rt1', '--distillation.weight', '2'], 'distillation.weight is 2.0, expected 0'),
    (['rt1', '--init.prune'], 'init.prune is set without init.weights'),
    (['rt2', '--init.trainable', 'lora'], 'set --model.lora.rank 8'),
    (['rt1', '--model.action-spec', 'arm'], "Did you mean 'arm7d'?"),
])
def test_flags_that_cannot_be_parsed(capsys, words, expected):
  code, _, err = parse(capsys, *words)
  assert code == 2 and expected in err and 'Traceback' not in err


@pytest.mark.parametrize('words, expected', [
    (['rt1x'], r"unknown preset 'rt1x', expected one of .* Did you mean 'rt1_x'"),
    (['rt11'], r"Did you mean 'rt1'\?"),
    (['--data', 'folder'], 'the preset comes first'),
])
def test_an_unknown_preset(words, expected):
  with pytest.raises(ValueError, match=expected):
    train.parse(words)


def test_errors_are_one_line():
  done = run('rt1')
  assert done.returncode == 2 and 'Traceback' not in done.stderr, done.stderr
  assert done.stderr.splitlines()[-1].startswith('error: no data to train on')


@pytest.mark.parametrize('words, expected', [
    (['--data', '/nothing/here'], '/nothing/here'), (['--data', 'bridge', '--mesh.data', '3'], r'mesh is \(3, 1, 1\)')])
def test_errors_before_training(monkeypatch, tmp_path, words, expected):
  with pytest.raises((ValueError, OSError), match=expected):
    run_here(monkeypatch, 'rt1', *words, '--output', tmp_path / 'run')


def test_the_end_names_the_results(monkeypatch, capsys, tmp_path):
  from rtjax.training import loop
  monkeypatch.setattr(sys, 'argv', ['train.py', 'reach', '--data', 'bridge'])
  outcome = loop.Outcome(tmp_path, 300, True, 200, {})
  monkeypatch.setattr(loop, 'train', lambda config: outcome)
  train.main()
  out = capsys.readouterr().out
  assert f'python eval.py {tmp_path} --dataset bridge' in out and f'{tmp_path}/checkpoints/200' in out
  outcome = dataclasses.replace(outcome, finished=False, step=7)
  with pytest.raises(SystemExit) as ended:
    train.main()
  assert ended.value.code == 1 and 'saved at step 7' in capsys.readouterr().out


def test_trains_resumes_and_starts_from_real_episodes(tmp_path, shared, monkeypatch, capsys):
  """A few steps on robot data: train, start another run, refuse a change."""
  small = ['--data', shared / 'data' / 'bridge_dataset', '--batch-size', 2, '--model.layers', 1,
           '--model.window', 2, '--pipeline.cache-dir', tmp_path / 'cache', '--logging.every', 1,
           '--validation.batches', 1]
  first = run('bridge_sample', *small, '--steps', 3, '--output', tmp_path / 'first')
  assert first.returncode == 0, first.stderr
  assert 'step 3/3: loss' in first.stdout and 'python eval.py' in first.stdout
  rows = [json.loads(line) for line in (tmp_path / 'first' / 'metrics.jsonl').read_text().splitlines()]
  assert {'validation/accuracy_per_token/gripper', 'validation/accuracy_per_frame/slot1',
          'validation/l1/translation[0]'} <= rows[-1].keys()
  assert list((tmp_path / 'first' / 'tensorboard').iterdir())
  run_here(monkeypatch, 'bridge_sample', *small, '--steps', 2, '--output', tmp_path / 'second', '--model.horizon', 2,
           '--init.weights', tmp_path / 'first')
  printed = capsys.readouterr().out
  assert 'in part: transformer/position/kernel' in printed and 'left out: 0 variables' in printed
  with pytest.raises(ValueError, match='seed: 0 there, 4 now'):
    run_here(monkeypatch, 'bridge_sample', *small, '--seed', 4, '--output', tmp_path / 'first')
