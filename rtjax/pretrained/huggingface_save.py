"""Writer of models as published on Hugging Face; the reverse of huggingface.py."""
import json
import os
import pathlib
import shutil
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from rtjax.models import parameters
from rtjax.models.backbones.paligemma import PaliGemma
from rtjax.models.backbones.siglip import SigLIP
from rtjax.models.backbones.t5 import T5
from rtjax.models.backbones.t5gemma2 import T5Gemma2
from rtjax.models.backbones.vit import ViT
from rtjax.pretrained import huggingface, huggingface_config, huggingface_files, huggingface_layout
from rtjax.pretrained.huggingface import Json, Names
from rtjax.pretrained.huggingface_files import CONFIG, INDEX, SAFETENSORS
from rtjax.runtime import interrupt, limits

_TYPES = {'float32': 'F32', 'bfloat16': 'BF16', 'float16': 'F16'}
_COMPANIONS = ('tokenizer.json', 'tokenizer.model', 'spiece.model', 'tokenizer_config.json', 'special_tokens_map.json',
               'added_tokens.json', 'preprocessor_config.json', 'processor_config.json', 'chat_template.json',
               'chat_template.jinja', 'generation_config.json')
"""Files of tokenizer, image processor and generation that stand beside published weights."""


def save_huggingface(model: ViT | SigLIP | T5 | PaliGemma | T5Gemma2, folder: str | os.PathLike, *,
                     source: str | os.PathLike | None = None, shard_bytes: int = 5 * 10 ** 9) -> None:
  """Write a model for transformers and `load_huggingface`.

  Tensors have the type of the parameters and go to the file one by one, so that the host holds one of them at a time.
  LoRA's adapters are folded into their kernels; copies of the embedding table are left out. The files appear together
  once all are written, and nothing of them after an error.

  Args:
    model: such as `load_huggingface` returns, or the part of an RT-2 that is one: `rt2.backbone`, or of PaLI
      `rt2.backbone.text`.
    folder: new, or without config.json and weights.
    source: folder that the model was once loaded from. Its config.json, names of tensors, tokenizer, image processor
      and generation settings are kept; files that `folder` has already stay. None: config.json is written from the
      network alone, a ViT with a classifier as ViTForImageClassification and an mT5 as the T5 that its network is, and
      the other files are yours to copy.
    shard_bytes: size from which the tensors go to several files, of at most this size each, and an index.

  Raises:
    FileNotFoundError: `source` is no such folder.
    ValueError: the folder has a model already, `source` holds another network, or files of Hugging Face cannot express
      this one.
  """
  folder = pathlib.Path(folder)
  if taken := [path.name for path in (folder / CONFIG, *folder.glob('model*.safetensors*')) if path.exists()]:
    raise ValueError(f'{folder} holds a model already ({taken[0]}): give another folder, or remove it.')
  if shard_bytes < 1:
    raise ValueError(f'shard_bytes is {shard_bytes}, expected at least 1.')
  config, names = huggingface_config.describe(model.config) if source is None else _as_published(
      model.config, pathlib.Path(source))
  variables = parameters.each_layer(parameters.merged(model))
  shapes = {name: tuple(value.shape) for name, value in variables.items()}
  parameters.check({place: shapes.get(place, ()) for places in names.values() for place in places}, shapes,
                   f'by its config.json, the variables of this {type(model).__name__}')
  types = {str(value.dtype) for value in variables.values()}
  folder.mkdir(parents=True, exist_ok=True)
  with interrupt.scratch_folder(folder, '.writing-') as scratch:
    _write_tensors(scratch, names, variables, shard_bytes)
    _write_json(scratch / CONFIG, _with_dtype(config, types.pop()) if len(types) == 1 else config)
    for file in _companions(folder, source):
      shutil.copyfile(file, scratch / file.name)
    for file in sorted(scratch.iterdir(), key=lambda file: file.name == CONFIG):  # without it there is no model
      os.replace(file, folder / file.name)


def _as_published(config: Any, source: pathlib.Path) -> tuple[Json, Names]:
  """Return config.json and names of tensors of the source.

  Raises:
    FileNotFoundError, ValueError: see `save_huggingface`.
  """
  found, _ = huggingface.open_folder(source)
  if other := huggingface_config.differences(config, found.config):
    raise ValueError(f'source {source} holds another network than this {type(config).__name__.removesuffix("Config")}: '
                     f'{", ".join(other)}. Leave it out to write config.json from the network.')
  return huggingface_files.read_config(source), found.names


def _with_dtype(config: Json, dtype: str) -> dict[str, Any]:
  """Return config.json with the type of the tensors.

  Older files call it torch_dtype.
  """
  nested = {name: _with_dtype(value, dtype) for name, value in config.items()
            if isinstance(value, dict) and {'dtype', 'torch_dtype'} & value.keys()}
  return {**config, **nested, 'torch_dtype' if 'torch_dtype' in config else 'dtype': dtype}


def _companions(folder: pathlib.Path, source: str | os.PathLike | None) -> list[pathlib.Path]:
  """Return the files of the source to copy."""
  files = [] if source is None else [pathlib.Path(source) / name for name in _COMPANIONS]
  files = [file for file in files if file.is_file() and not (folder / file.name).exists()]
  for file in files:
    limits.check_file(file)
  return files


def _write_tensors(folder: pathlib.Path, names: Names, variables: Mapping[str, jax.Array], most: int) -> None:
  """Write one file, or shards of at most `most` bytes."""
  sizes = {tensor: sum(variables[place].nbytes for place in places) for tensor, places in sorted(names.items())}
  shards = list(_shards(sizes, most))
  files = [SAFETENSORS] if len(shards) == 1 else [
      f'model-{i:05}-of-{len(shards):05}.safetensors' for i in range(1, len(shards) + 1)]
  for file, shard in zip(files, shards, strict=True):
    _write_file(folder / file, {tensor: names[tensor] for tensor in shard}, variables)
  if len(shards) > 1:
    weight_map = {tensor: file for file, shard in zip(files, shards, strict=True) for tensor in shard}
    _write_json(folder / INDEX, {'metadata': {'total_size': sum(sizes.values())}, 'weight_map': weight_map})


def _shards(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
  """Yield the tensors of each file, in order."""
  shard: list[str] = []
  for tensor, size in sizes.items():
    if shard and sum(sizes[name] for name in shard) + size > most:
      yield shard
      shard = []
    shard.append(tensor)
  yield shard


def _write_file(path: pathlib.Path, names: Names, variables: Mapping[str, jax.Array]) -> None:
  """Write a safetensors file, tensor by tensor.

  The package's own function holds all of them twice.
  """
  shapes = {name: tuple(value.shape) for name, value in variables.items()}
  header: dict[str, Any] = {'__metadata__': {'format': 'pt'}}  # transformers refuses files without this entry
  order, end = sorted(names, key=lambda tensor: (-variables[names[tensor][0]].dtype.itemsize, tensor)), 0
  for tensor in order:
    places = names[tensor]
    start, end = end, end + sum(variables[place].nbytes for place in places)
    header[tensor] = {'dtype': _TYPES[str(variables[places[0]].dtype)],
                      'shape': huggingface_layout.shape_in_file(tensor, places, shapes), 'data_offsets': [start, end]}
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  with path.open('wb') as file:
    file.write(struct.pack('<Q', len(text)) + text)
    for tensor in order:
      file.write(_tensor(tensor, names[tensor], variables).reshape(-1).view(np.uint8).data)


def _tensor(tensor: str, places: tuple[str, ...], variables: Mapping[str, jax.Array]) -> np.ndarray:
  parts = [huggingface_layout.write(np.asarray(variables[place]), tensor, place) for place in places]
  return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts))


def _write_json(path: pathlib.Path, value: Json) -> None:
  path.write_text(json.dumps(value, indent=2) + '\n')
