"""Weights in a safetensors file, as `python -m rtjax.export --to safetensors` writes it.

Tensors have rtjax's names ('transformer/layers/0/attention/query/kernel'). NAME in int8 comes with NAME.scale, by which
it is multiplied. The file's metadata, under 'rtjax', is JSON: 'config' (the model's), 'embedding_id', 'image_size', and
'vocabulary' of a model that has one.
"""
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from rtjax import models
from rtjax.models import vocabulary

_KEY, _SCALE = 'rtjax', '.scale'


def find(path: str | os.PathLike) -> pathlib.Path | None:
  """The file that `path` names: itself, or the only one in a folder."""
  path = pathlib.Path(path)
  files = [path] if path.suffix == '.safetensors' and path.is_file() else sorted(path.glob('*.safetensors'))
  return files[0] if len(files) == 1 else None


def write(path: pathlib.Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
  from safetensors.numpy import save_file
  save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path,
            {_KEY: json.dumps(metadata)})


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
  """What the file says about itself; see the module's docstring.

  Raises:
    ValueError: it cannot be read, or rtjax did not write it.
  """
  with open_file(path) as file:
    stored = (file.metadata() or {}).get(_KEY)
  if stored is None:
    raise ValueError(f'{path} is no export of rtjax: its metadata has no entry {_KEY!r}. Folders as published on '
                     'Hugging Face are read by rtjax.pretrained.load_huggingface.')
  return json.loads(stored)


def load(path: str | os.PathLike) -> models.Model:
  """The model in a file or its folder.

  Raises:
    ValueError: it cannot be read, rtjax did not write it, or variables are missing, unknown or of another shape.
  """
  metadata = read_metadata(path)
  config = models.config_from_dict(metadata['config'])
  with open_file(path) as file:
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
  values = {name: value * tensors[name + _SCALE] if name + _SCALE in tensors else value
            for name, value in tensors.items() if not name.endswith(_SCALE)}
  return vocabulary.attach(models.from_values(config, values), metadata)


def open_file(path: str | os.PathLike) -> Any:
  """A file, or the only one in a folder, opened by the package safetensors: see its `safe_open`.

  Raises:
    FileNotFoundError, ValueError: it is not there, or cannot be read.
  """
  try:
    import safetensors
  except ModuleNotFoundError as error:
    raise ValueError(f'{path} needs the package safetensors: pip install safetensors.') from error
  file = find(path)
  if file is None:
    raise FileNotFoundError(f'no safetensors file at {path}: expected one, or a folder that holds one.')
  try:
    return safetensors.safe_open(file, 'numpy')
  except safetensors.SafetensorError as error:
    raise ValueError(f'{file} cannot be read: {error}. Was it copied completely?') from error
