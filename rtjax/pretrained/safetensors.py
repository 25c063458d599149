"""Reader and writer of rtjax's safetensors files: exports (`python -m rtjax.export`) and packaged policies.

Tensors have the names of `rtjax.models.parameters` ('transformer/layers/0/attention/query/kernel'). An int8 tensor NAME
comes with NAME.scale; the value is their product. The file's metadata entry 'rtjax' is JSON: 'config' (the model's),
'embedding_id', 'image_size', 'recorded_sizes', 'rtjax' (the version), and 'tokenizer' for models with language. That of
a packaged policy is the JSON of its checkpoint (rtjax/checkpoints.py), which adds 'step', 'statistics', 'train' and
'lineage'.
"""
import json
import os
import pathlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
from etils import epath
from safetensors.numpy import save_file

from rtjax import checkpoints, models
from rtjax.checkpoints import PolicyMetadata, UnreadWeights
from rtjax.models import PolicyModel, parameters
from rtjax.runtime import checksums, cli, limits, serialization

_KEY, _SCALE = 'rtjax', '.scale'
_KEPT = ('embedding_id', 'step', 'statistics', 'train', 'lineage', 'tokenizer')  # of a checkpoint, in a packaged policy
_SHOWN = 3  # damaged files that a message lists
_TYPES = ('F64', 'F32', 'F16', 'BF16', 'I64', 'I32', 'I16', 'I8', 'U8', 'BOOL')


def find(path: str | os.PathLike) -> pathlib.Path | None:
  """Return the safetensors file at `path`, or the only one in it."""
  path = pathlib.Path(path)
  files = [path] if path.suffix == '.safetensors' and path.is_file() else sorted(path.glob('*.safetensors'))
  return files[0] if len(files) == 1 else None


def write(path: pathlib.Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
  """Write tensors and JSON metadata."""
  save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path,
            {_KEY: json.dumps(metadata)})


def pack(checkpoint: str | os.PathLike, file: pathlib.Path) -> None:
  """Write a checkpoint's policy as one small file.

  The weights are the moving average where there is one, with adapters merged, matrices and kernels in float16.

  Raises:
    ValueError: a matrix has numbers beyond float16.
  """
  loaded, _ = checkpoints.load(checkpoint)
  model, stored = loaded.merged(), checkpoints.read_json(checkpoint)
  kept = {name: stored[name] for name in _KEPT if name in stored} | {'config': models.config_to_json(model.config)}
  write(file, {name: _small(name, np.asarray(value)) for name, value in parameters.named(model).items()}, kept)


def _small(name: str, value: np.ndarray) -> np.ndarray:
  """Return a matrix in float16, a vector in float32."""
  with np.errstate(over='ignore'):
    small = value.astype(np.float16 if value.ndim > 1 else np.float32)
  if not np.isfinite(small).all():
    raise ValueError(f'{name} has numbers up to {np.abs(value).max():g}, expected at most {np.finfo(np.float16).max}, '
                     'the largest of float16.')
  return small


def load(path: str | os.PathLike, *, verify: bool = True) -> tuple[PolicyModel, PolicyMetadata]:
  """Load the model of a file or its folder, and its metadata.

  Args:
    verify: compare the checksums first that the export wrote beside the file, if they are there.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file cannot be read, is not an export of rtjax, or its variables do not fit the model; or a file of
      the export has other contents than were written.
  """
  data = _read_metadata(path, verify)
  with open_file(path) as file:
    tensors = {name: _tensor(file, name, path) for name in file.keys()}  # noqa: SIM118 (no mapping)
  try:
    config = checkpoints.model_config(path, data)
    metadata = PolicyMetadata.from_json(path, data) if 'train' in data else _export_metadata(path, data)
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f'the metadata of {path} cannot be read: {cli.describe(error)}') from error
  model = models.from_values(config, {name: _scaled(name, value, tensors) for name, value in tensors.items()
                                      if not name.endswith(_SCALE)})
  checkpoints.attach_tokenizer(model, data)
  return model, metadata


def _export_metadata(path: str | os.PathLike, data: dict[str, Any]) -> PolicyMetadata:
  image_size = data['image_size'] and serialization.from_json(data['image_size'], tuple[int, int])
  sizes = serialization.from_json(data.get('recorded_sizes', []), tuple[tuple[int, int], ...])
  recorded = {str(number): {'image_size': size} for number, size in enumerate(sizes)}
  return PolicyMetadata(str(path), serialization.from_json(data['embedding_id'], str), image_size, statistics=recorded)


def open_weights(path: str | os.PathLike, *, verify: bool = True) -> UnreadWeights:
  """Open the weights without reading them; as for `load`."""
  data = _read_metadata(path, verify)
  with open_file(path) as file:
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)

  def read(names: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
    for name in names:
      with open_file(path) as file:  # pages count as memory of the process as long as a file is mapped
        tensors = {part: _tensor(file, part, path) for part in (name, name + _SCALE) if part in shapes}
      yield name, _scaled(name, tensors[name], tensors)
  return UnreadWeights(checkpoints.model_config(path, data),
                       {name: shape for name, shape in shapes.items() if not name.endswith(_SCALE)}, read)


def _read_metadata(path: str | os.PathLike, verify: bool) -> dict[str, Any]:
  if verify and (file := find(path)):
    _verify(epath.Path(file.parent))
  return read_json(path)


def read_json(path: str | os.PathLike) -> dict[str, Any]:
  """Return the JSON of rtjax in a file's metadata."""
  with open_file(path) as opened:
    stored = (opened.metadata() or {}).get(_KEY)
  if stored is None:
    raise ValueError(f'{path} is no export of rtjax: its metadata has no entry {_KEY!r}. Folders as published on '
                     'Hugging Face are read by rtjax.pretrained.load_huggingface.')
  return limits.json_object(limits.parse_json(stored, f'the metadata of {path}'), f'the metadata of {path}')


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
    ValueError: it cannot be read.
  """
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
