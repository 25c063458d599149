"""Reader and writer of rtjax's safetensors files (`python -m rtjax.export --to safetensors`).

Tensors have the names of `rtjax.models.parameters` ('transformer/layers/0/attention/query/kernel'). An int8 tensor NAME
comes with NAME.scale; the value is their product. The file's metadata entry 'rtjax' is JSON: 'config' (the model's),
'embedding_id', 'image_size', 'recorded_sizes', 'rtjax' (the version), and 'tokenizer' for models with language.
"""
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from rtjax import checkpoints, models
from rtjax.checkpoints import PolicyMetadata
from rtjax.models import PolicyModel
from rtjax.runtime import checksums, cli, limits, serialization

_KEY, _SCALE = 'rtjax', '.scale'
_SHOWN = 3  # damaged files that a message lists
_TYPES = ('F64', 'F32', 'F16', 'BF16', 'I64', 'I32', 'I16', 'I8', 'U8', 'BOOL')


def find(path: str | os.PathLike) -> pathlib.Path | None:
  """Return the safetensors file at `path`, or the only one in it."""
  path = pathlib.Path(path)
  files = [path] if path.suffix == '.safetensors' and path.is_file() else sorted(path.glob('*.safetensors'))
  return files[0] if len(files) == 1 else None


def write(path: pathlib.Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
  """Write tensors and JSON metadata."""
  from safetensors.numpy import save_file
  save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path,
            {_KEY: json.dumps(metadata)})


def load(path: str | os.PathLike, *, verify: bool = True) -> tuple[PolicyModel, PolicyMetadata]:
  """Load the model of a file or its folder, and its metadata.

  Args:
    verify: compare the checksums first that the export wrote beside the file, if they are there.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file cannot be read, is not an export of rtjax, or its variables do not fit the model; or a file of
      the export has other contents than were written.
  """
  if verify and (file := find(path)):
    _verify(epath.Path(file.parent))
  with open_file(path) as file:
    stored = (file.metadata() or {}).get(_KEY)
    if stored is None:
      raise ValueError(f'{path} is no export of rtjax: its metadata has no entry {_KEY!r}. Folders as published on '
                       'Hugging Face are read by rtjax.pretrained.load_huggingface.')
    tensors = {name: _tensor(file, name, path) for name in file.keys()}  # noqa: SIM118 (no mapping)
  data = limits.json_object(limits.parse_json(stored, f'the metadata of {path}'), f'the metadata of {path}')
  try:
    config, embedding_id = checkpoints.model_config(path, data), serialization.from_json(data['embedding_id'], str)
    image_size = data['image_size'] and serialization.from_json(data['image_size'], tuple[int, int])
    sizes = serialization.from_json(data.get('recorded_sizes', []), tuple[tuple[int, int], ...])
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f'the metadata of {path} cannot be read: {cli.describe(error)}') from error
  model = models.from_values(config, {name: _scaled(name, value, tensors) for name, value in tensors.items()
                                      if not name.endswith(_SCALE)})
  checkpoints.attach_tokenizer(model, data)
  recorded = {str(number): {'image_size': size} for number, size in enumerate(sizes)}
  return model, PolicyMetadata(str(path), embedding_id, image_size, statistics=recorded)


def _tensor(file: Any, name: str, path: str | os.PathLike) -> np.ndarray:
  dtype = file.get_slice(name).get_dtype()
  if dtype not in _TYPES:
    raise ValueError(f'{name} in {path} has the type {dtype}, expected one of {list(_TYPES)}.')
  return file.get_tensor(name)


def _verify(folder: epath.Path) -> None:
  if (folder / checksums.NAME).exists() and (problems := checksums.problems(folder)):
    raise ValueError(f'the export {folder} is damaged or changed: {", ".join(problems[:_SHOWN])}. Copy or export it '
                     'again; or read it as it is, verify=False (--no-verify).')


def _scaled(name: str, value: np.ndarray, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
  scale = tensors.get(name + _SCALE)
  if scale is None:
    return value
  if np.broadcast_shapes(scale.shape, value.shape) != value.shape:
    raise ValueError(f'the scale of {name} has the shape {scale.shape}, which does not fit {value.shape}.')
  with np.errstate(invalid='ignore'):  # the loaded values are checked
    return value * scale


def open_file(path: str | os.PathLike) -> Any:
  """Open a file, or the only one in a folder, by `safetensors.safe_open`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it cannot be read, or the package safetensors is not installed.
  """
  try:
    import safetensors
  except ModuleNotFoundError as error:
    raise ValueError(f'{path} needs the package safetensors: pip install safetensors.') from error
  file = find(path)
  if file is None:
    raise FileNotFoundError(f'no safetensors file at {path}: expected one, or a folder that holds one.')
  limits.check_file(file)
  try:
    return safetensors.safe_open(file, 'numpy')
  except safetensors.SafetensorError as error:
    raise ValueError(f'{file} cannot be read: {error}.{_cut_off(file)} Was it copied completely?') from error


def _cut_off(file: pathlib.Path) -> str:
  """Return a sentence about the tensors that a truncated file lacks."""
  try:
    with open(file, 'rb') as opened:
      size = int.from_bytes(opened.read(8), 'little')
      limits.check_size(size, limits.JSON_BYTES, 'the header')
      header = limits.json_object(limits.parse_json(opened.read(size), 'the header'), 'the header')
    data = file.stat().st_size - 8 - size
    cut = [name for name, entry in header.items() if name != '__metadata__' and entry['data_offsets'][1] > data]
  except (ValueError, TypeError, LookupError, AttributeError):  # the header is damaged too
    return ''
  return f' It ends before the end of {len(cut)} of its tensors, the first {cut[0]}.' if cut else ''
