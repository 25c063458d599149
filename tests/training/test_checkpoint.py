"""Checkpoints of a run: damaged, unfinished, kept."""
import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers import run_tiny_training, tiny_training

from rtjax import checkpoints
from rtjax.training import checkpoint, loop, state


def train(run):
  return loop.train(tiny_training.config(run), data=tiny_training.data())


@pytest.mark.parametrize('damage', [
    'no metadata', 'empty metadata', 'no arrays', 'cut arrays', 'no manifest', 'cut metrics'])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(run, four_steps, damage):
  folder = run / 'checkpoints' / '4'
  arrays = [f for f in folder.rglob('*') if f.is_file() and f.parent.name == 'd']
  files = {'metadata': [folder / 'metadata' / 'metadata'], 'metrics': [folder / 'metrics' / 'metrics'],
           'arrays': arrays, 'manifest': [folder / 'state' / 'manifest.ocdbt']}[damage.split()[1]]
  for file in files:
    if damage.startswith('no'):
      file.unlink()
    else:
      content = file.read_bytes()
      file.write_bytes(content[:len(content) // 2] if damage.startswith('cut') else b'')
  with pytest.warns(UserWarning, match=r'step 4 .* is damaged .* 4\.corrupt'):
    train(run)
  assert run_tiny_training.digest(run) == run_tiny_training.digest(four_steps)
  assert (run / 'checkpoints' / '4.corrupt').is_dir()


def test_an_unfinished_checkpoint_is_skipped_and_removed(run, four_steps):
  (run / 'checkpoints' / '4').rename(run / 'checkpoints' / '4.orbax-checkpoint-tmp')
  assert train(run).step == 4
  assert run_tiny_training.digest(run) == run_tiny_training.digest(four_steps)


def test_checkpoints_that_are_all_damaged_are_an_error_and_stay(run):
  for step in ('2', '4'):
    (run / 'checkpoints' / step / 'metadata' / 'metadata').unlink()
  with pytest.raises(checkpoints.CheckpointError, match=r'none of the checkpoints \[2, 4\].*left as they are'):
    train(run)
  assert sorted(p.name for p in (run / 'checkpoints').iterdir()) == ['2', '4']
  with pytest.warns(UserWarning, match='damaged'), pytest.raises(checkpoints.CheckpointError, match='cannot be read'):
    checkpoints.load(run)


def test_loading_a_path_without_a_checkpoint(tmp_path, run):
  assert not checkpoints.is_checkpoint(tmp_path / 'nothing')
  with pytest.raises(FileNotFoundError, match='no checkpoint at'):
    checkpoints.load(tmp_path / 'nothing')
  file = run / 'checkpoints' / '4' / 'metadata' / 'metadata'
  file.write_text(json.dumps(json.loads(file.read_text()) | {'format': 3}))
  with pytest.raises(checkpoints.CheckpointError, match='format 3, this rtjax reads format 2'):
    checkpoints.load(run)


def test_the_newest_and_the_best_are_kept(tmp_path):
  values = state.TrainState(np.int32(0), {'kernel': np.ones(3)}, {}, {}, (), None, jax.random.key(0))
  with checkpoint.RunCheckpoints(tmp_path, keep=2) as saves:
    for step, loss in enumerate([3.0, 1.0, 2.0, None, 4.0, None], 1):
      saves.save(dataclasses.replace(values, step=np.int32(step)), {}, None if loss is None else {'loss': loss})
    saves.wait()
    assert saves.best == 2 and saves.latest == 6
  assert sorted(p.name for p in (tmp_path / 'checkpoints').iterdir()) == ['2', '5', '6']
