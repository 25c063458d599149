"""Runners and their flags, failures, counts."""
import builtins

import pytest

from rtjax.data.beam import runner
from rtjax.data.generation.item_store import ItemStore, split_ranges
from rtjax.runtime.cli import UserError

RANGES = split_ranges(10)


def squares(first, end):
  if first == 4:
    raise OverflowError('too large')
  return [number ** 2 for number in range(first, end)]


def cubes(first, end):
  return [number ** 3 for number in range(first, end)]


@pytest.mark.parametrize('beam', ['DirectRuner', 'Spark', 'direct --x 1'])
def test_an_unknown_runner_is_named(beam):
  with pytest.raises(ValueError, match=f"unknown runner '{beam.split()[0]}', expected one of DirectRunner, .*"):
    runner.options(beam)


@pytest.mark.parametrize('start', [runner.options, lambda beam: runner.temporary_folder(beam).__enter__(),
                                   lambda beam: runner.run(beam, print)])
def test_a_missing_package_names_the_installation(monkeypatch, start):
  original = builtins.__import__

  def without_beam(name, *arguments):
    if name.startswith('apache_beam'):
      raise ImportError('No module named apache_beam')
    return original(name, *arguments)

  monkeypatch.setattr(builtins, '__import__', without_beam)
  with pytest.raises(UserError, match=r"needs Apache Beam \(No .*\): pip install 'rtjax\[beam\]', in an environment"):
    start('DirectRunner')


class TestWithBeam:
  """On the DirectRunner."""

  @pytest.fixture(autouse=True)
  def _beam(self):
    pytest.importorskip('apache_beam', reason="needs the extra 'beam'")

  def test_an_unknown_flag_is_named(self):
    with pytest.raises(ValueError, match=r'no flag --direct_num_worker\. Did you mean .direct_num_workers'):
      runner.options('DirectRunner --direct_num_worker 2')

  def test_items_are_those_of_processes(self, tmp_path, capsys):
    here, there = (ItemStore(tmp_path / name, 2) for name in ('here', 'there'))
    for store, beam in ((here, ''), (there, 'DirectRunner')):
      store.create({})
      store.fill(cubes, RANGES, 1, 'cubes', beam)
      assert list(store.read(0, 10)) == [number ** 3 for number in range(10)]
    assert [p.read_bytes() for p in sorted(here.folder.iterdir())] == [
        p.read_bytes() for p in sorted(there.folder.iterdir())]
    assert 'Apache Beam: 11 cubes\n' in capsys.readouterr().out

  def test_a_failure_names_its_items_and_the_rest_is_kept(self, tmp_path, capsys):
    store = ItemStore(tmp_path, 2)
    with pytest.raises(UserError, match=r'^DirectRunner stopped: .*squares 4 to 5: OverflowError: too large'):
      store.fill(squares, RANGES, 1, 'squares', 'DirectRunner')
    missing = [first for first, _ in store.parts(0, 11) if not store.path(first).exists()]
    assert 4 in missing
    store.fill(cubes, RANGES, 1, 'the rest', 'DirectRunner')
    assert list(store.read(4, 6)) == [64, 125]
    assert f'Apache Beam: {sum(min(first + 2, 11) - first for first in missing)} the rest' in capsys.readouterr().out

  def test_a_folder_out_of_reach_is_named(self, tmp_path):
    with pytest.raises(UserError, match=rf'{tmp_path}/nowhere cannot be reached from .*--out a folder that all'):
      ItemStore(tmp_path / 'nowhere', 2).fill(cubes, RANGES, 1, 'cubes', 'DirectRunner')

  def test_other_runners_need_a_common_folder(self):
    with (pytest.raises(ValueError, match='add --temp_location FOLDER, which all workers reach'),
          runner.temporary_folder('FlinkRunner --flink_master localhost:8081')):
      pass
