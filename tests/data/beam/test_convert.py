"""Conversion of logs on workers: the dataset of one machine."""
import sys

import pytest

pytest.importorskip('apache_beam', reason="needs the extra 'beam'")

from helpers import robot_logs
from helpers.dataset_files import contents

from rtjax.data.beam import runner
from rtjax.data.convert import __main__ as command
from rtjax.data.convert import validate, write
from rtjax.data.convert.episode import find_logs
from rtjax.data.convert.options import Options
from rtjax.data.tf import tfds
from rtjax.runtime.cli import UserError

EPISODES = {f'demo_{number}': robot_logs.episode(number, 4 + number % 3) for number in range(30)}


def run(monkeypatch, *arguments):
  monkeypatch.setattr(sys, 'argv', ['convert', *map(str, arguments)])
  command.main()


@pytest.mark.parametrize('layout', ['npz', 'groups'])
def test_datasets_are_equal(layout, tmp_path, monkeypatch, capsys):
  if layout == 'npz':
    path, flags = robot_logs.write_npz(tmp_path / 'logs', EPISODES), []
  else:
    path, flags = robot_logs.write_hdf5_groups(tmp_path / 'logs.h5', EPISODES), robot_logs.GROUP_KEYS
  found = []
  for name, beam in (('here', []), ('there', ['--beam', 'DirectRunner'])):
    run(monkeypatch, path, *flags, '--name', 'bot', '--out', tmp_path / name, '--bounds', 'quantiles', *beam)
    found.append(contents(tmp_path / name / 'bot/1.0.0'))
    assert [p.name for p in (tmp_path / name).iterdir()] == ['bot']
  assert found[0] == found[1] and 'metadata.json' in found[0]
  printed = capsys.readouterr().out
  assert 'Apache Beam: 30 episodes checked, 0 episodes with errors\n' in printed
  assert 'Apache Beam: 27 episodes in train, 3 episodes in val\n' in printed


def test_reports_are_equal(tmp_path, capsys):
  """With errors, warnings, other sizes, and an episode without steps."""
  episodes = {name: dict(arrays) for name, arrays in EPISODES.items()}
  episodes['demo_3'].pop('action')
  episodes['demo_4']['images'] = episodes['demo_4']['images'][:, :8]
  episodes['demo_5'] |= {key: value[:0] for key, value in EPISODES['demo_5'].items() if key != 'instruction'}
  episodes['demo_6']['images'] = episodes['demo_6']['images'][..., 0]
  episodes['demo_7']['state'] = episodes['demo_7']['state'][:, :3]
  options = Options(logs=robot_logs.write_npz(tmp_path, episodes), beam='DirectRunner')
  here = validate.validate(find_logs(options), options, options.spec())
  there = validate.validate_on_workers(30, options, options.spec())
  assert here.findings == there.findings and here.lengths == there.lengths and here.left_out == there.left_out == [
      'demo_5']
  assert {f.kind for f in there.findings if f.level == 'error'} == {'missing entry', 'image sizes', 'state sizes'}
  assert (here.summary(), here.period, here.image_sizes) == (there.summary(), there.period, there.image_sizes)
  assert all((a == b).all() for a, b in zip(here.actions, there.actions, strict=True))
  assert '30 episodes checked, 1 episodes with errors' in capsys.readouterr().out


def test_errors_stop_before_anything_is_written(tmp_path, monkeypatch, capsys):
  path = robot_logs.write_npz(tmp_path / 'bot', {'a': EPISODES['demo_0'] | {'action': EPISODES['demo_1']['action']}})
  with pytest.raises(SystemExit) as stopped:
    run(monkeypatch, path, '--out', tmp_path / 'out', '--beam', 'DirectRunner')
  assert stopped.value.code == 1 and 'lengths differ' in capsys.readouterr().out
  assert not (tmp_path / 'out').exists()


def test_workers_that_see_other_logs_are_refused(tmp_path):
  options = Options(logs=robot_logs.write_npz(tmp_path, {'a': EPISODES['demo_0']}), beam='DirectRunner')
  with pytest.raises(UserError, match=r'with 1 episodes on .* and 30 where the command runs'):
    validate.validate_on_workers(30, options, options.spec())


def test_a_log_that_changed_after_the_check(tmp_path, monkeypatch):
  path = robot_logs.write_npz(tmp_path / 'bot', EPISODES)
  check = validate.validate_on_workers

  def cut(*arguments):
    report = check(*arguments)
    (path / 'demo_3.npz').write_bytes(b'')
    return report

  monkeypatch.setattr(validate, 'validate_on_workers', cut)
  with pytest.raises(UserError, match=r'DirectRunner stopped: .*demo_3: demo_3.npz cannot be read'):
    run(monkeypatch, path, '--out', tmp_path / 'out', '--beam', 'DirectRunner')
  assert not list((tmp_path / 'out/bot').iterdir())


def test_lerobot_is_refused(tmp_path):
  with pytest.raises(ValueError, match='--to lerobot writes into a folder of this machine, without --beam'):
    Options(logs=tmp_path, to='lerobot', beam='DirectRunner')


def test_the_order_is_equal_where_there_are_several_files(tmp_path, monkeypatch):
  """TFDS divides them elsewhere."""
  path, found = robot_logs.write_npz(tmp_path / 'bot', EPISODES), []
  for name, beam in (('here', ''), ('there', 'DirectRunner')):
    settings = {'beam_options': runner.options(beam)} if beam else {}
    config = tfds.download.DownloadConfig(num_shards=3, **settings)
    monkeypatch.setattr(write, 'download_config', lambda beam, config=config: config)
    run(monkeypatch, path, '--out', tmp_path / name, *(['--beam', beam] if beam else []))
    files = contents(tmp_path / name / 'bot/1.0.0')
    train = [file for file in files if 'train.tfrecord' in file]
    assert len(train) == 3
    found.append([record for file in train for record in files[file]])
  assert found[0] == found[1] and len(found[0]) == 27
