"""The training loop: resume bit for bit, signals, full disks."""
import json
import logging
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from helpers import run_tiny_training, tiny_rlds, tiny_training

import rtjax
from rtjax import actions, checkpoints, models
from rtjax.data import DataConfig
from rtjax.training import loop
from rtjax.training.config import CheckpointConfig, LoggingConfig, MeshConfig, ValidationConfig
from rtjax.training.optimizer import OptimizerConfig

TWO_DEVICES = {'XLA_FLAGS': os.environ['XLA_FLAGS'] + ' --xla_force_host_platform_device_count=2'}
SCRIPT = pathlib.Path(run_tiny_training.__file__)


def train(output, stream=tiny_training.Stream, **changes):
  return loop.train(tiny_training.config(output, **changes), data=tiny_training.data(stream))


def rows(run):
  return [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]


def losses(run):
  return [(row['step'], row.get('loss')) for row in rows(run)]


def start_process(output, *words, **changes):
  return subprocess.Popen([sys.executable, SCRIPT, str(output), json.dumps(changes), *words], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)


def test_two_steps_and_two_more_are_four_bit_for_bit(four_steps, tmp_path):
  class Stops(tiny_training.Stream):
    """Ends the run after step 3; the last checkpoint is of step 2."""

    def __next__(self):
      if self._next == 3:
        raise OSError('the disk with the data is gone')
      return super().__next__()
  with pytest.raises(OSError, match='is gone'):
    train(tmp_path / 'run', Stops)
  resumed = train(tmp_path / 'run')
  assert resumed.step == 4 and resumed.finished
  assert run_tiny_training.digest(tmp_path / 'run') == run_tiny_training.digest(four_steps)
  assert losses(tmp_path / 'run') == losses(four_steps)


def test_a_finished_run_is_left_as_it_is(run, capsys):
  before = run_tiny_training.digest(run)
  outcome = train(run)
  assert outcome.finished and outcome.step == 4 and outcome.best_step in (2, 4)
  assert 'has all its 4 steps already' in capsys.readouterr().out
  assert run_tiny_training.digest(run) == before and len(rows(run)) == 6


def test_the_files_of_a_run(four_steps):
  assert [r['step'] for r in rows(four_steps)] == [1, 2, 2, 3, 4, 4]
  assert {'loss', 'accuracy', 'grad_norm', 'learning_rate'} <= rows(four_steps)[0].keys()
  assert {'validation/loss', 'validation/accuracy_per_token/move[1]'} <= rows(four_steps)[-1].keys()
  metadata, weights = checkpoints.load_weights(four_steps)
  assert metadata['step'] == 4 and metadata['embedding_id'] == 'universal-sentence-encoder-large/5'
  assert metadata['data'] == [{'next': 4}] and metadata['train']['steps'] == 4
  assert models.config_from_json(metadata['config']) == tiny_training.TinyConfig()
  assert json.loads((four_steps / 'config.json').read_text()) == metadata['train']
  model, _ = checkpoints.load(four_steps)
  np.testing.assert_array_equal(model.output.kernel[...], weights['params']['output']['kernel'])
  assert checkpoints.is_checkpoint(four_steps) and checkpoints.is_checkpoint(four_steps / 'checkpoints' / '2')
  assert checkpoints.load_weights(four_steps / 'checkpoints' / '2')[0]['step'] == 2


def test_a_run_resumes_with_other_logging_and_checkpoints(run):
  assert train(run, logging=LoggingConfig(every=7, tensorboard=False), checkpoints=CheckpointConfig(keep=3)).step == 4


def test_steps_may_grow_and_the_schedule_is_explained(run, capsys):
  assert train(run, steps=6).step == 6
  out = capsys.readouterr().out
  assert 'resumes at step 4 of 6' in out
  assert 'steps: 4 before, 6 now: the cosine now ends at step 6' in out
  assert 'the learning rate at step 4 is 0.005, not ' in out  # 0, or what float32 leaves of it
  assert [row['step'] for row in rows(run) if 'loss' in row] == [1, 2, 3, 4, 5, 6]
  assert json.loads((run / 'config.json').read_text())['steps'] == 6
  assert train(run).step == 6  # the shorter command again: nothing to do
  assert 'has all its 6 steps already, 4 are asked for' in capsys.readouterr().out
  assert json.loads((run / 'config.json').read_text())['steps'] == 6


def test_steps_may_not_shrink_below_what_is_left(run):
  shutil.rmtree(run / 'checkpoints' / '4')
  with pytest.raises(ValueError, match=r'is at step 2 of 4, and --steps is 3: steps may only grow. Set --steps 4'):
    train(run, steps=3)


def test_a_dataset_is_known_by_content_not_by_path(tmp_path):
  """A moved one goes on; other numbers, other features and other datasets are refused with what differs."""
  settings = {'steps': 2, 'batch_size': 4, 'validation': ValidationConfig(every=0),
              'checkpoints': CheckpointConfig(every=1000),
              'model': tiny_training.TinyConfig(action_spec=actions.ARM_7D),
              'pipeline': DataConfig(shuffle_episodes=6, cache_dir=str(tmp_path / 'cache'))}

  def train_on(data, **changes):
    return loop.train(tiny_training.config(tmp_path / 'run', data=(str(data),), **settings | changes))

  lengths = [3, 4, 3, 5]
  first = tiny_rlds.write_lengths(tmp_path / 'built', lengths)
  train_on(first)
  moved = pathlib.Path(shutil.move(tmp_path / 'built', tmp_path / 'moved')) / 'bridge_dataset'
  assert train_on(moved, steps=3).step == 3

  episodes = [tiny_rlds.steps(i, length) for i, length in enumerate(lengths)]
  episodes[1][2]['observation']['image_0'] = tiny_rlds.image(9, 9)  # the same size in bytes
  other = tiny_rlds.write(tmp_path / 'other', episodes)
  with pytest.raises(ValueError, match=rf'{other} holds other data than {moved}, .*:\n  hash of all records: '):
    train_on(other, steps=3)
  with pytest.raises(ValueError, match=r'episodes: 4 there, 5 now\n  steps: 15 there, 17 now'):
    train_on(tiny_rlds.write_lengths(tmp_path / 'longer', [*lengths, 2]), steps=3)
  with pytest.raises(FileNotFoundError, match='no such folder'):
    train_on(first, steps=3)


def test_a_damaged_configuration_is_that_of_the_checkpoint(run):
  (run / 'config.json').write_text('{"seed": 0, "da')
  with pytest.raises(ValueError, match='seed: 0 there, 1 now'):
    train(run, seed=1)
  assert train(run).step == 4
  assert json.loads((run / 'config.json').read_text())['seed'] == 0


def test_another_configuration_is_refused(run):
  with pytest.raises(ValueError, match='seed: 0 there, 1 now'):
    train(run, seed=1)


def test_the_tiny_model_learns(tmp_path):
  outcome = train(tmp_path / 'run', steps=80, checkpoints=CheckpointConfig(every=40),
                  validation=ValidationConfig(every=40), logging=LoggingConfig(every=20, tensorboard=False),
                  optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=5, ema_decay=0.9),
                  model=tiny_training.TinyConfig(horizon=2))
  first = rows(tmp_path / 'run')[0]
  assert outcome.row['loss'] < first['loss'] * 0.7 and outcome.row['validation/accuracy'] > 0.6
  assert 'validation/accuracy_per_token/grip+1' in outcome.row
  weights = checkpoints.load_weights(tmp_path / 'run')[1]
  model, _ = checkpoints.load(tmp_path / 'run')
  np.testing.assert_array_equal(model.output.kernel[...], weights['ema']['output']['kernel'])
  assert np.any(weights['ema']['output']['kernel'] != weights['params']['output']['kernel'])


def test_a_loss_that_is_not_finite_stops_and_names_step_and_checkpoint(tmp_path):
  with pytest.raises(loop.TrainingError, match=r'step 4 gave a loss of nan .* checkpoint is of step 2 in .*run'):
    train(tmp_path / 'run', data=('nan',), steps=8)
  assert sorted(p.name for p in (tmp_path / 'run' / 'checkpoints').iterdir()) == ['2']


def test_a_loss_that_is_not_finite_is_skipped_and_counted(tmp_path, capsys):
  assert train(tmp_path / 'run', data=('nan',), steps=8, non_finite='skip').step == 8
  assert [r['skipped_steps'] for r in rows(tmp_path / 'run') if 'skipped_steps' in r] == [0, 0, 0, 1, 0, 0, 0, 0]
  assert '1 steps not finite, skipped' in capsys.readouterr().out
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(checkpoints.load_weights(tmp_path / 'run')[1]))


@pytest.mark.parametrize('changes, message', [
    ({'data': ()}, 'no data to train on'),
    ({'batch_size': 10, 'grad_accum_steps': 4}, 'batch_size 10 does not divide into 4'),
    ({'mesh': MeshConfig(data=3)}, 'the 1 device'),
])
def test_bad_settings(tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    train(tmp_path / 'run', **changes)


def test_datasets_of_different_instruction_encoders_are_refused(tmp_path):
  data = tiny_training.data()
  data.statistics = lambda names, *_: {name: {'embedding_id': name} for name in names}
  with pytest.raises(ValueError, match='different instruction encoders'):
    loop.train(tiny_training.config(tmp_path / 'run', data=('one', 'other')), data=data)


def test_output_that_is_a_file(tmp_path):
  (tmp_path / 'run').write_text('')
  with pytest.raises(ValueError, match='is a file'):
    train(tmp_path / 'run')


def test_checkpoints_without_their_configuration(run):
  (run / 'config.json').unlink()
  with pytest.raises(ValueError, match='holds checkpoints and no config'):
    train(run)


LONG = {'steps': 60, 'checkpoints.every': 3, 'validation.every': 0, 'logging.every': 10}


def test_killed_again_and_again_ends_with_the_same_bits(tmp_path):
  changes = LONG | {'logging.every': 1}
  loop.train(run_tiny_training.changed(tiny_training.config(tmp_path / 'complete'), changes), data=tiny_training.data())
  random.seed(0)
  for _ in range(3):
    process = start_process(tmp_path / 'run', 'slow', **changes)
    rows_to_see = random.randint(1, 15)
    for line in process.stdout:
      rows_to_see -= line.startswith('step ')
      if rows_to_see == 0:
        break
    time.sleep(random.uniform(0, 0.1))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
  process = start_process(tmp_path / 'run', 'slow', **changes)
  output = process.communicate()[0]
  assert process.returncode == 0, output
  assert 'resumes at step' in output
  assert run_tiny_training.digest(tmp_path / 'run') == run_tiny_training.digest(tmp_path / 'complete')
  assert losses(tmp_path / 'run') == losses(tmp_path / 'complete')


@pytest.mark.parametrize('number', [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_and_ends(tmp_path, number):
  changes = LONG | {'checkpoints.every': 1000, 'steps': 1000}
  process = start_process(tmp_path / 'run', 'slow', **changes)
  for line in process.stdout:
    if line.startswith('step 10/'):
      break
  process.send_signal(number)
  output = process.communicate()[0]
  assert process.returncode == 0, output
  outcome = json.loads(output.splitlines()[-1].removeprefix('outcome '))
  assert not outcome['finished'] and 10 <= outcome['step'] < 1000
  metadata = checkpoints.read_json(tmp_path / 'run')
  assert metadata['step'] == outcome['step'] and metadata['data'] == [{'next': outcome['step']}]


def test_a_full_disk_is_an_error_that_keeps_the_old_checkpoints(run):
  before = run_tiny_training.digest(run)
  process = start_process(run, 'full', steps=8)
  output = process.communicate()[0]
  assert process.returncode == 1, output
  assert 'CheckpointError: could not write a checkpoint' in output and 'The one of step 4 is complete' in output
  assert run_tiny_training.digest(run) == before
  assert (run / 'checkpoints' / '4').is_dir()


def test_a_run_resumes_on_another_number_of_devices(run, four_steps):
  shutil.rmtree(run / 'checkpoints' / '4')
  two = os.environ | TWO_DEVICES
  command = [sys.executable, SCRIPT, str(run), '{"mesh.data": 1, "mesh.fsdp": 2}']
  done = subprocess.run(command, env=two, capture_output=True, text=True, check=False)
  assert done.returncode == 0 and 'resumes at step 2' in done.stdout, done.stderr
  for (step, loss), (other_step, other) in zip(losses(run), losses(four_steps), strict=True):
    assert step == other_step and (loss == other or loss == pytest.approx(other, rel=1e-4))


def test_a_checkpoint_of_four_devices_is_read_quietly_on_one(tmp_path, caplog, capfd, recwarn):
  run = tmp_path / 'run'
  four = os.environ | {'XLA_FLAGS': '--xla_force_host_platform_device_count=4'}
  subprocess.run([sys.executable, SCRIPT, str(run), '{"mesh.data": 2, "mesh.fsdp": 2}'], env=four, check=True)
  capfd.readouterr()
  step = run / 'checkpoints' / '4'
  for path in (run, run / 'checkpoints', step, step / 'state'):
    assert rtjax.load_policy(path).metadata.step == 4
  assert train(run, steps=5).step == 5
  assert capfd.readouterr().err == '' and not recwarn.list
  assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
