"""The command that writes LeRobot datasets, from logs and from datasets."""
import numpy as np
import pytest

pytest.importorskip('av', reason="needs the extra 'lerobot'")
from helpers import robot_logs, tiny_lerobot, tiny_rlds

from rtjax import actions, data
from rtjax.data.convert import __main__ as convert
from rtjax.data.episodes.open import open_dataset
from rtjax.data.language import NoVectors


def run(monkeypatch, *arguments):
  monkeypatch.setattr('sys.argv', ['convert', *map(str, arguments)])
  convert.main()


def episodes(folder, split='train', **options):
  spec = data.recorded_spec([str(folder)]) or actions.ARM_7D
  dataset = open_dataset(str(folder), split, spec, proprioception=None, vectors=NoVectors(), **options)
  return dataset, list(dataset.read_all())


def test_rlds_round_trip(tmp_path, monkeypatch, capsys):
  rlds = tiny_rlds.write_lengths(tmp_path, [5, 9, 3])
  run(monkeypatch, rlds, '--to', 'lerobot', '--fps', 5, '--out', tmp_path / 'out')
  folder = tmp_path / 'out/bridge_dataset'
  assert f'--data {folder}' in capsys.readouterr().out
  before, after = episodes(rlds), episodes(folder)
  decode, decode_after = before[0].decoder(None), after[0].decoder(None)
  for a, b in zip(before[1], after[1], strict=True):
    np.testing.assert_array_equal(a.actions, b.actions)
    np.testing.assert_array_equal(a.proprioception, b.proprioception)
    np.testing.assert_array_equal(a.instructions, b.instructions)
    steps = range(len(a))
    for x, y in zip(decode(a, steps, 0), decode_after(b, steps, 0), strict=True):
      np.testing.assert_allclose(x.astype(int), y, atol=4)
  with pytest.raises(ValueError, match='exists already'):
    run(monkeypatch, rlds, '--to', 'lerobot', '--fps', 5, '--out', tmp_path / 'out')


def test_logs_become_the_same_episodes_as_in_rlds(tmp_path, monkeypatch):
  logs = robot_logs.write_npz(tmp_path / 'logs', {f'e{i}': robot_logs.episode(i) for i in range(4)})
  run(monkeypatch, logs, '--out', tmp_path, '--name', 'old', '--image-format', 'png')
  run(monkeypatch, logs, '--out', tmp_path, '--name', 'new', '--to', 'lerobot', '--frames', 'png', '--fps', 5)
  for split in ('train', 'val'):
    (old, before), (new, after) = episodes(tmp_path / 'old', split), episodes(tmp_path / 'new', split)
    assert {tuple(e.instructions) for e in before} == {tuple(e.instructions) for e in after}
    of_text = {e.instructions[0]: e for e in before}
    for episode in after:
      same = of_text[episode.instructions[0]]
      np.testing.assert_array_equal(episode.actions, same.actions)
      steps = range(len(same))
      np.testing.assert_array_equal(list(new.decoder(None)(episode, steps, 0)), list(old.decoder(None)(same, steps, 0)))


def test_lerobot_2_becomes_lerobot_3_with_its_rate(tmp_path, monkeypatch):
  old = tiny_lerobot.write(tmp_path / 'old', 'v2.1')
  run(monkeypatch, old, '--to', 'lerobot', '--out', tmp_path, '--name', 'new')
  (_, before), (new, after) = (episodes(tmp_path / name, camera='wrist') for name in ('old', 'new'))
  assert new.version == 'v3.0' and data.recorded_spec([str(tmp_path / 'new')]) == data.recorded_spec([str(old)])
  for a, b in zip(before, after, strict=True):
    np.testing.assert_array_equal(a.actions, b.actions)


def test_the_rate_is_asked_for_and_datasets_stay_datasets(tmp_path, monkeypatch):
  rlds = tiny_rlds.write_lengths(tmp_path, [3])
  with pytest.raises(ValueError, match=r'--fps is 0.*steps a second'):
    run(monkeypatch, rlds, '--to', 'lerobot', '--out', tmp_path / 'out')
  with pytest.raises(ValueError, match='a dataset already'):
    run(monkeypatch, rlds, '--out', tmp_path / 'out')
