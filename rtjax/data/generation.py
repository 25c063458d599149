"""Steps that all generators of datasets take; scripts under data/ use them."""
import io
import json
import shutil
import tempfile
from typing import Any

import numpy as np
from PIL import Image


def as_json(settings: dict[str, Any]) -> dict[str, Any]:
  """Return settings as JSON keeps them, so that they compare equal later."""
  return json.loads(json.dumps(settings))


def encode_jpeg(image: np.ndarray) -> bytes:
  """Encode a uint8 image [H, W, 3] with full colour resolution."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, format='JPEG', quality=95, subsampling=0)
  return buffer.getvalue()


def write(builder: Any) -> dict[str, int]:
  """Write the dataset of a TFDS builder.

  Returns:
    {split: number of episodes or examples}.
  """
  shutil.rmtree(builder.data_dir, ignore_errors=True)  # left by an interrupted run
  with tempfile.TemporaryDirectory() as downloads:  # TFDS leaves a folder for downloads, of which there are none
    builder.download_and_prepare(download_dir=downloads)
  return {name: split.num_examples for name, split in builder.info.splits.items()}
