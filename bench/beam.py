"""Time of recording on Apache Beam beside that of processes.

    python bench/beam.py

Records 40 small demonstrations of the tabletop in turn with two processes and with two workers of the DirectRunner, and
writes a dataset each time. Prints the times and the ratio pair by pair. That the datasets are equal is a test
(tests/data/beam/test_generation.py).
"""
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import tyro
from machine import describe

ROOT = pathlib.Path(__file__).resolve().parents[1]
_BEAM = 'DirectRunner --direct_num_workers 2 --direct_running_mode multi_processing'


def generate(out: pathlib.Path, episodes: int, *flags: str) -> float:
  """Record a dataset and return the seconds."""
  start = time.perf_counter()
  subprocess.run([sys.executable, ROOT / 'data/tabletop/generate.py', '--out', out, '--episodes', str(episodes),
                  '--no-wrist', *flags], check=True, capture_output=True)
  return time.perf_counter() - start


def main(pairs: int = 3, episodes: int = 40) -> None:
  """Compare processes with the DirectRunner.

  Args:
    pairs: times that both are measured.
    episodes: demonstrations; a tenth as many more are held out.
  """
  print(describe())
  ratios = []
  for pair in range(pairs):
    with tempfile.TemporaryDirectory() as folder:
      processes = generate(pathlib.Path(folder, 'processes'), episodes, '--workers', '2')
      beam = generate(pathlib.Path(folder, 'beam'), episodes, '--beam', _BEAM)
    ratios.append(beam / processes)
    print(f'{pair + 1}: processes {processes:.1f} s, DirectRunner {beam:.1f} s, ratio {ratios[-1]:.2f}', flush=True)
  print(f'median ratio {statistics.median(ratios):.2f}')


if __name__ == '__main__':
  tyro.cli(main)
