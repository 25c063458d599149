"""Runs the trainer on the tiny model in a process of its own: `run_tiny.py OUTPUT CHANGES_AS_JSON [slow] [full]`.

slow: leaves time to kill it in. full: files cannot grow beyond 20 kB, less than a checkpoint, as if the disk were full.
"""
import hashlib
import json
import os
import pathlib
import resource
import signal
import sys

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import jax
import numpy as np

from helpers import tiny_training
from rtjax.training import checkpoint, loop


def digest(run: str) -> str:
  """Of every number of the newest checkpoint's weights."""
  metadata, weights = checkpoint.load(run)
  found = hashlib.sha256(str(metadata['step']).encode())
  for leaf in jax.tree.leaves(weights):
    found.update(np.ascontiguousarray(leaf).tobytes())
  return found.hexdigest()


if __name__ == '__main__':
  if 'full' in sys.argv:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
  stream = tiny_training.SlowStream if 'slow' in sys.argv else tiny_training.Stream
  changes = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(sys.argv[2]).items()}
  try:
    outcome = loop.train(tiny_training.config(sys.argv[1], **changes), data=tiny_training.data(stream))
  except (checkpoint.CheckpointError, loop.TrainingError, ValueError) as error:
    sys.exit(f'{type(error).__name__}: {error}')
  print('outcome', json.dumps({'step': outcome.step, 'finished': outcome.finished, 'loss': outcome.row.get('loss')}))
