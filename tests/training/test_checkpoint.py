"""Checkpoints of a run: damaged, unfinished, kept."""
import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import pytest
from helpers import checkpoint_files, run_tiny_training, tiny_training

import rtjax
from rtjax import checkpoints
from rtjax.runtime import checksums
from rtjax.training import checkpoint, loop, state

VALUES = state.TrainState(jnp.int32(0), {'kernel': jnp.ones(3)}, {}, {}, (), None, jax.random.key(0))


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


def write_as(run, version, change):
  """Rewrite a run's configurations as another version of rtjax would have."""
  def changed(text):
    data = json.loads(text)
    change(data['train'], data['config'])
    return json.dumps(data | {'rtjax': version})
  for step in (run / 'checkpoints').iterdir():
    checkpoint_files.change_metadata(step, changed)
  train = json.loads((run / 'config.json').read_text())
  change(train, train['model'])
  (run / 'config.json').write_text(json.dumps(train))


def test_a_run_of_an_older_version_resumes_with_the_defaults_and_one_line(run, four_steps, capsys):
  shutil.rmtree(run / 'checkpoints' / '4')
  write_as(run, '0.0.9', lambda train, model: [
      group.pop(name, None) for group, name in ((train['optimizer'], 'ema_decay'), (train, 'logging'),
                                                (train['model'], 'width'), (model, 'width'))])
  with pytest.warns(UserWarning, match=r'run was written by rtjax 0\.0\.9, without .* hold: width = 64\.'):
    checkpoints.load(run)
  train(run)
  assert run_tiny_training.digest(run) == run_tiny_training.digest(four_steps)
  line = 'run was written by rtjax 0.0.9, without these settings, whose defaults hold: '
  assert f'{line}model.width = 64, optimizer.ema_decay = 0.0.' in capsys.readouterr().out
  train(run)
  assert line not in capsys.readouterr().out


def test_a_run_of_a_later_version_is_refused_by_name(run):
  write_as(run, '9.1.0', lambda train, model: [settings.update(later=1) for settings in (train['model'], model)])
  advice = (rf'unknown settings \(later\).* written by rtjax 9\.1\.0, this is rtjax {rtjax.__version__}: read it with '
            'that version, or with a newer one')
  with pytest.raises(ValueError, match=f'{run} cannot be resumed: .*{advice}.*--output'):
    train(run)
  with pytest.raises(checkpoints.CheckpointError, match=f'the model in {run} cannot be read: .*{advice}'):
    rtjax.load_model(run)


def test_a_flipped_bit_in_any_file_is_found_when_loading(run):
  """The error names the file and the older checkpoint; `verify=False` leaves it to the reader."""
  step = run / 'checkpoints' / '4'
  names = [name for name in checkpoint_files.files(step) if name not in checkpoint_files.UNREAD]
  assert len(names) > 10
  for name in names:
    for _ in checkpoint_files.flipped(step / name, [len(name) * 97]):
      with pytest.raises(checkpoints.CheckpointError, match=f'4 cannot be read: {re.escape(name)}.*step 2 is whole'):
        checkpoints.load(step)
  shutil.rmtree(run / 'checkpoints' / '2')
  for _ in checkpoint_files.flipped(step / 'metrics' / 'commit_success.txt', [0]):
    with pytest.raises(checkpoints.CheckpointError, match='There is no older one'):
      checkpoints.load(run)
    assert checkpoints.load(run, verify=False)[1].step == 4
  assert checkpoints.load(run)[1].step == 4
  (step / checksums.NAME).unlink()
  with pytest.raises(checkpoints.CheckpointError, match='SHA256SUMS is missing'):
    checkpoints.load(run)


def test_files_without_a_checksum_are_not_read(run, four_steps):
  for name in checkpoint_files.UNREAD:
    (run / 'checkpoints' / '4' / name).write_bytes(b'\xff')
  assert run_tiny_training.digest(run) == run_tiny_training.digest(four_steps)
  assert train(run).step == 4


def test_a_flipped_bit_in_any_file_is_found_when_resuming(tmp_path):
  """An older checkpoint is used, and the damaged file is named."""
  with checkpoint.RunCheckpoints(tmp_path) as saves:
    for step in (2, 4):
      saves.save(dataclasses.replace(VALUES, step=jnp.int32(step)), {}, {'loss': 1.0})
  one_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one_device), VALUES)
  folder = tmp_path / 'checkpoints' / '4'
  for name in [name for name in checkpoint_files.files(folder) if name not in checkpoint_files.UNREAD]:
    for _ in checkpoint_files.flipped(folder / name, [len(name) * 31]):
      with pytest.warns(UserWarning, match=rf'{re.escape(name)}.* 4\.corrupt, and that of step 2 is used'):
        _, metadata = checkpoint.RunCheckpoints(tmp_path).restore(target)
      assert metadata['step'] == 2
      (tmp_path / 'checkpoints' / '4.corrupt').rename(folder)
  assert checkpoint.RunCheckpoints(tmp_path).restore(target)[1]['step'] == 4


def test_damaged_metrics_of_an_older_checkpoint_do_not_block(run):
  (run / 'checkpoints' / '2' / 'metrics' / 'metrics').write_text('{"loss": 1.2')
  with pytest.warns(UserWarning, match=r'step 2 .* is damaged .* 2\.corrupt'):
    outcome = loop.train(tiny_training.config(run, steps=5), data=tiny_training.data())
  assert outcome.step == 5


def test_a_checkpoint_of_before_there_were_checksums(run, four_steps):
  step = run / 'checkpoints' / '4'
  (step / checksums.NAME).unlink()
  checkpoint_files.change_metadata(step, lambda text: text.replace('"checksums": "SHA256SUMS", ', ''))
  assert run_tiny_training.digest(run) == run_tiny_training.digest(four_steps)
  assert train(run).step == 4


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
  with pytest.raises(checkpoints.CheckpointError, match=r'4 cannot be read: metadata/metadata is missing.* no older'):
    checkpoints.load(run)


def test_loading_a_path_without_a_checkpoint(tmp_path, run):
  assert not checkpoints.is_checkpoint(tmp_path / 'nothing')
  with pytest.raises(FileNotFoundError, match='no checkpoint at'):
    checkpoints.load(tmp_path / 'nothing')
  checkpoint_files.change_metadata(run / 'checkpoints' / '4', lambda text: json.dumps(
      json.loads(text) | {'format': 3}))
  with pytest.raises(checkpoints.CheckpointError, match='format 3, this rtjax reads format 2'):
    checkpoints.load(run)


def test_the_newest_and_the_best_are_kept(tmp_path):
  with checkpoint.RunCheckpoints(tmp_path, keep=2) as saves:
    for step, loss in enumerate([3.0, 1.0, 2.0, None, 4.0, None], 1):
      saves.save(dataclasses.replace(VALUES, step=jnp.int32(step)), {}, None if loss is None else {'loss': loss})
    saves.wait()
    assert saves.best == 2 and saves.latest == 6
  assert sorted(p.name for p in (tmp_path / 'checkpoints').iterdir()) == ['2', '5', '6']
