"""Folder of a run, and the configuration in it."""
import json
import pathlib
from typing import Any

import jax

from rtjax import checkpoints
from rtjax.runtime import limits, serialization
from rtjax.training import sharding
from rtjax.training.config import TrainConfig, check_same_run


def check(config: TrainConfig, run: pathlib.Path) -> None:
  """Refuse a folder with checkpoints of another configuration."""
  if checkpoints.is_checkpoint(run):
    if not (run / 'config.json').exists():
      raise ValueError(f'output {run} holds checkpoints and no config.json with the configuration of their run. Choose '
                       'another folder, or remove this one; to start from its weights, give it as --init.weights.')
    try:
      added = check_same_run(_stored_config(run), config, run)
    except serialization.UnreadableError as error:
      advice = checkpoints.version_advice(checkpoints.read_json(run))
      raise ValueError(f'{run} cannot be resumed: {error}{advice} Or give another --output to start a new run.'
                       ) from error
    if added and jax.process_index() == 0:
      print(checkpoints.describe_defaults(run, checkpoints.read_json(run), added))


def write_config(config: TrainConfig, run: pathlib.Path) -> None:
  """Write config.json, complete or not at all."""
  if jax.process_index() == 0:
    run.mkdir(parents=True, exist_ok=True)
    unfinished = run / 'config.tmp'
    unfinished.write_text(json.dumps(serialization.to_json(config), indent=2) + '\n')
    unfinished.replace(run / 'config.json')
  sharding.wait_for_all('config.json is written')


def _stored_config(run: pathlib.Path) -> dict[str, Any]:
  try:
    return limits.json_object(limits.read_json(run / 'config.json'), run / 'config.json')
  except ValueError:  # damaged; checkpoints hold it as well
    return checkpoints.read_json(run)['train']
