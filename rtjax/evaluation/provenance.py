"""Where a report comes from and where it goes."""
import datetime
import os
import pathlib
import platform
import tempfile
from typing import Any

import jax

import rtjax
from rtjax.training import checkpoint as checkpoints


def provenance() -> dict[str, Any]:
  """'created' (ISO 8601, UTC), 'rtjax' (version), 'machine'."""
  device = jax.devices()[0]
  return {'created': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'), 'rtjax': rtjax.__version__,
          'machine': f'{device.device_kind} ({os.cpu_count()} cores, {platform.machine()})'}


def step_of(checkpoint: str) -> int | None:
  """The training step of a checkpoint of rtjax; released weights do not tell."""
  return checkpoints.read_metadata(checkpoint)['step'] if checkpoints.is_checkpoint(checkpoint) else None


def prepare(folder: pathlib.Path) -> None:
  """Makes the folder, so that one that cannot be written is known before the long part.

  Raises:
    ValueError: it cannot be made, or not be written to.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
  except OSError as error:
    raise ValueError(f'the output folder {folder} cannot be written: {error.strerror}. '
                     'Choose another with --output.') from error
