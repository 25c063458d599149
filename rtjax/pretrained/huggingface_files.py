"""Files of a folder as published on Hugging Face.

They are config.json, and tensors in one safetensors file or in shards.
"""
import itertools
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from rtjax.models import parameters
from rtjax.pretrained import safetensors
from rtjax.runtime import limits

CONFIG, SAFETENSORS, INDEX = 'config.json', 'model.safetensors', 'model.safetensors.index.json'
PREPROCESSORS = 'preprocessor_config.json', 'processor_config.json'
_TYPES = ('F64', 'F32', 'F16', 'BF16')
_CONVERT = ('python -c "import glob, torch; from safetensors.torch import save_file; '
            'files = glob.glob(\'pytorch_model*.bin\'); '
            'tensors = {k: v.clone() for f in files for k, v in torch.load(f, weights_only=True).items()}; '
            'save_file(tensors, \'model.safetensors\')"')


class Tensor(NamedTuple):
  """A tensor in a file, not yet read.

  The file is open only while the tensor is read: its pages count as memory of the process as long as it is mapped.
  """
  name: str
  file: pathlib.Path
  shape: tuple[int, ...]
  dtype: str

  def read(self) -> np.ndarray:
    """Return the numbers.

    Raises:
      ValueError: the file has been damaged, the type is no floating-point type, or numbers are not finite.
    """
    if self.dtype not in _TYPES:
      raise ValueError(f'{self.name} in {self.file} has the type {self.dtype}, expected one of {list(_TYPES)}.')
    with safetensors.open_file(self.file) as file:
      value = file.get_tensor(self.name)
    parameters.check_finite({self.name: value}, str(self.file))
    return value

  def equals(self, other: 'Tensor', rows: int = 4096) -> bool:
    """Return whether two matrices are equal; reads until the first difference."""
    if self.shape != other.shape or not {self.dtype, other.dtype} <= {*_TYPES}:
      return False
    with safetensors.open_file(self.file) as one, safetensors.open_file(other.file) as two:
      a, b = one.get_slice(self.name), two.get_slice(other.name)
      ends = [*range(0, self.shape[0], rows), self.shape[0]]
      return all(np.array_equal(a[i:j], b[i:j]) for i, j in itertools.pairwise(ends))


def read_config(folder: pathlib.Path) -> dict[str, Any]:
  """Return config.json.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is no JSON object.
  """
  path = folder / CONFIG
  if not path.is_file():
    found = f'it holds {sorted(p.name for p in folder.iterdir())[:5]}' if folder.is_dir() else 'there is no such folder'
    raise FileNotFoundError(f'no config.json in {folder} ({found}): expected a folder as published on Hugging Face.')
  return limits.json_object(limits.read_json(path), path)


def read_preprocessor(folder: pathlib.Path) -> dict[str, Any]:
  """Return the settings of the image processor; empty where there are none.

  Raises:
    ValueError: the file is no JSON object.
  """
  for name in PREPROCESSORS:
    if (path := folder / name).is_file():
      found = limits.json_object(limits.read_json(path), path)
      return limits.json_object(found.get('image_processor', found), path)  # transformers 5 writes one file for all
  return {}


def find_tensors(folder: pathlib.Path) -> dict[str, Tensor]:
  """Return the tensors of a folder, shard by shard; none is read.

  Raises:
    FileNotFoundError: a file is missing; for a PyTorch file alone, the error tells how to convert it.
    ValueError: a file is damaged, or a shard lacks tensors that the index promises.
  """
  if (folder / SAFETENSORS).is_file():
    return {tensor.name: tensor for tensor in _tensors(folder / SAFETENSORS)}
  if (folder / INDEX).is_file():
    names = _read_weight_map(folder / INDEX)
    files = sorted(set(names.values()))
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
      raise FileNotFoundError(f'{folder / INDEX} names shards that are missing: {some(missing)}. Download them too.')
    found = {tensor.name: tensor for file in files for tensor in _tensors(folder / file)}
    absent = [f'{name} in {file}' for name, file in names.items() if name not in found]
    if absent:
      raise ValueError(f'{folder / INDEX} names tensors that are not there: {some(absent)}. Is the shard that of '
                       'another model?')
    return found
  if sorted(folder.glob('pytorch_model*.bin')):
    raise FileNotFoundError(f'{folder} holds pytorch_model.bin and no {SAFETENSORS}. Convert it once, in that folder, '
                            f'where PyTorch is installed:\n  {_CONVERT}')
  raise FileNotFoundError(f'no {SAFETENSORS} and no {INDEX} in {folder}; it holds '
                          f'{some(sorted(p.name for p in folder.iterdir()))}.')


def _tensors(path: str | os.PathLike) -> Iterator[Tensor]:
  with safetensors.open_file(path) as file:
    for name in file.keys():  # noqa: SIM118 (no mapping)
      header = file.get_slice(name)
      yield Tensor(name, pathlib.Path(path), tuple(header.get_shape()), header.get_dtype())


def _read_weight_map(index: pathlib.Path) -> dict[str, str]:
  """Return the file of each tensor, which lies beside the index."""
  names = limits.json_object(limits.json_object(limits.read_json(index), index).get('weight_map'),
                             f"'weight_map' of {index}")
  files = {tensor: limits.check_name(name, f'the file of {tensor!r} in {index}') for tensor, name in names.items()}
  if other := sorted({name for name in files.values() if not name.endswith('.safetensors')}):
    raise ValueError(f'{index} names files that are not safetensors: {some(other)}. Files of other kinds, such as '
                     "PyTorch's, may hold code and are not read.")
  return files


def some(names: list[str], most: int = 5) -> str:
  """Return the first names, and how many more there are."""
  return ', '.join(names[:most]) + (f' and {len(names) - most} more' if len(names) > most else '')
