"""Recording on workers: the dataset of processes on one machine."""
import subprocess
import sys

import pytest
from helpers.paths import ROOT

pytest.importorskip('apache_beam', reason="needs the extra 'beam'")
pytest.importorskip('mujoco', reason="needs the extra 'sim'")

from helpers.dataset_files import contents


def generate(out, *options):
  """Run the command line in a separate process."""
  return subprocess.run(
      [sys.executable, ROOT / 'data/tabletop/generate.py', '--out', out, '--episodes', '21', '--image-size', '16', '16',
       '--no-wrist', '--disturbance', '4', *options], capture_output=True, text=True)


def test_datasets_are_equal(tmp_path):
  """Failed episodes, too, on workers in processes and in words of the outcome."""
  here = generate(tmp_path / 'here', '--workers', '1', '--outcome-in-words')
  there = generate(tmp_path / 'there', '--outcome-in-words', '--beam',
                   'DirectRunner --direct_num_workers 2 --direct_running_mode multi_processing')
  assert (here.returncode, there.returncode) == (0, 0), here.stderr + there.stderr
  found = [contents(tmp_path / name) for name in ('here', 'there')]
  assert found[0] == found[1]
  assert {'tabletop', 'tabletop_failures'} <= {name.split('/')[0] for name in found[0]}
  assert 'Apache Beam: 23 episodes\n' in there.stdout and ' in tabletop, train' in there.stdout
  again = generate(tmp_path / 'there', '--outcome-in-words', '--beam', 'DirectRunner')
  assert 'is complete already' in again.stdout


def test_an_unknown_runner_stops_at_once(tmp_path):
  done = generate(tmp_path, '--beam', 'DirectRuner')
  assert done.returncode == 2 and "Did you mean 'DirectRunner'?" in done.stderr and not list(tmp_path.iterdir())
