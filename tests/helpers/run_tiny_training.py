"""Training of the tiny model, or of a small RT-1 or RT-2, in a separate process.

    run_tiny_training.py OUTPUT CHANGES_AS_JSON [slow] [full] [rt1=DATASET] [rt2=QUESTIONS]

CHANGES are fields of TrainConfig, as flags name them: {"steps": 8, "checkpoints.every": 3}.
slow: leave time to kill it in. full: files cannot grow beyond 20 kB, less than a checkpoint, as if the disk were full.
rt1: on a dataset of episodes. rt2: on questions about images, and on the tiny model's windows.
"""
import dataclasses
import hashlib
import json
import os
import pathlib
import resource
import signal
import sys
from typing import Any

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import jax
import numpy as np

from helpers import tiny_training
from rtjax import checkpoints
from rtjax.data import DataConfig
from rtjax.runtime.cli import UserError
from rtjax.training import loop
from rtjax.training.config import TrainConfig


def digest(run: str | os.PathLike) -> str:
  """Hash of every number of the newest checkpoint's weights."""
  metadata, weights = checkpoints.load_weights(run)
  found = hashlib.sha256(str(metadata['step']).encode())
  for leaf in jax.tree.leaves(weights):
    found.update(np.ascontiguousarray(leaf).tobytes())
  return found.hexdigest()


def changed(config: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
  """The configuration with some fields, 'group.field' or 'field', replaced."""
  for name, value in changes.items():
    group, _, field = name.rpartition('.')
    config = (dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **{field: value})})
              if group else dataclasses.replace(config, **{field: value}))
  return config


if __name__ == '__main__':
  if 'full' in sys.argv:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
  data: Any = tiny_training.data(tiny_training.SlowStream if 'slow' in sys.argv else tiny_training.Stream)
  config = tiny_training.config(sys.argv[1])
  kind, _, folder = sys.argv[-1].partition('=')
  if kind == 'rt1':
    from helpers import tiny_rt1
    config = dataclasses.replace(config, model=tiny_rt1.TINY, data=(folder,), pipeline=DataConfig(
        shuffle_episodes=8, validation_split='train', cache_dir=f'{sys.argv[1]}-cache'))
    data = None
  elif kind == 'rt2':
    from helpers import rt2_training
    config = rt2_training.config(sys.argv[1], folder, data=('colours',), text={'batch_size': 8})
  config = changed(config, json.loads(sys.argv[2]))
  try:
    outcome = loop.train(config, data=data)
  except (UserError, loop.TrainingError, ValueError) as error:
    sys.exit(f'{type(error).__name__}: {error}')
  print('outcome', json.dumps({'step': outcome.step, 'finished': outcome.finished, 'loss': outcome.row.get('loss')}))
