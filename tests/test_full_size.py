"""Presets at full size: minutes each, run by `make test-full`."""
import json
import subprocess
import sys

import numpy as np
import pytest
from helpers.paths import ROOT

pytestmark = pytest.mark.slow


def train(preset: str, shared, output, *arguments: str) -> list[dict]:
  """Run train.py on the Bridge sample; return the rows of metrics.jsonl."""
  command = [sys.executable, 'train.py', preset, '--data', str(shared / 'data/bridge_dataset/1.0.0'),
             '--output', str(output), *arguments]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)
  assert done.returncode == 0, done.stderr[-2000:]
  return [json.loads(line) for line in (output / 'metrics.jsonl').read_text().splitlines()]


def test_bridge_sample_is_memorised(shared, tmp_path):
  rows = train('bridge_sample', shared, tmp_path / 'run')
  last = [row for row in rows if 'accuracy' in row][-1]
  assert last['step'] == 300 and last['accuracy'] > 0.9
  validation = [row for row in rows if 'validation/accuracy' in row][-1]  # the same episodes, in inference mode
  assert validation['validation/accuracy'] > 0.9


def test_rt1_trains(shared, tmp_path):
  rows = train('rt1', shared, tmp_path / 'run', '--batch-size', '2', '--steps', '4', '--logging.every',
               '1', '--validation.every', '0', '--optimizer.warmup-steps', '1', '--model.dtype', 'float32')
  losses = [row['loss'] for row in rows if 'loss' in row]
  assert len(losses) == 4 and np.all(np.isfinite(losses)) and len(set(losses)) == 4
