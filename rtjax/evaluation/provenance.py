"""Origin of a report (date, version, machine) and its output folder."""
import datetime
import os
import pathlib
import platform
import tempfile
from typing import Any

import jax

import rtjax


def provenance() -> dict[str, Any]:
  """Return 'created' (ISO 8601, UTC), 'rtjax' (version) and 'machine'."""
  device = jax.devices()[0]
  return {'created': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'), 'rtjax': rtjax.__version__,
          'machine': f'{device.device_kind} ({os.cpu_count()} cores, {platform.machine()})'}


def make_output_folder(folder: pathlib.Path) -> None:
  """Create the output folder, and check that it is writable.

  Raises:
    ValueError: it cannot be created or written to.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
  except OSError as error:
    raise ValueError(f'the output folder {folder} cannot be written: {error.strerror}. '
                     'Choose another with --output.') from error
