"""Readers of weights: rtjax's own, released RT-1, RT-1-X, Keras, Hugging Face."""
import os
import pathlib
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from rtjax import checkpoints, packaged
from rtjax.checkpoints import PolicyMetadata, UnreadWeights
from rtjax.models import Dtype, PolicyModel, parameters
from rtjax.pretrained import rt1_x, safetensors, tf_rt1
from rtjax.pretrained.huggingface import load_huggingface as load_huggingface
from rtjax.pretrained.huggingface_save import save_huggingface as save_huggingface
from rtjax.runtime import limits


def load_model(path: str | os.PathLike, *, verify: bool = True, dtype: Dtype | None = None) -> PolicyModel:
  """Load a model; arguments and errors as for `load`.

  Returns:
    The model in inference mode: `model(images, embeddings)`; its shape is in `model.config`.
  """
  return load(path, verify=verify, dtype=dtype)[0]


def load(path: str | os.PathLike, *, verify: bool = True, dtype: Dtype | None = None
         ) -> tuple[PolicyModel, PolicyMetadata]:
  """Load a model and its metadata; format and architecture are detected.

  Args:
    path: the name of a packaged policy (`rtjax.packaged.names()`); an rtjax run folder or the folder of one step; or a
      released TensorFlow RT-1: a checkpoint prefix, its folder, or a SavedModel folder (needs `pip install
      rtjax[data]`); or a released RT-1-X: its msgpack file, the folder around it, or an Orbax folder; or a safetensors
      file of `python -m rtjax.export`, or its folder.
    verify: compare the checksums of the files of an rtjax checkpoint or export first; other formats have none.
    dtype: type of the computation; None: that of the training, float32 for released weights. float32 is about twice as
      fast on a CPU. Logits differ by bfloat16's rounding, and with them the token where two are almost equally likely.

  Raises:
    CheckpointError: an rtjax checkpoint is damaged; names the file, and an older checkpoint that can be read.
    FileNotFoundError: there is nothing at `path`, or nothing of a known format.
    ValueError: the format is known, but the file is damaged, beyond a bound, or a pointer of Git LFS, or variables do
      not fit the model, or they or the statistics are not finite; the error names them.
  """
  path = packaged.resolve(path)
  model, metadata = _read(path, verify)
  numbers = {name: leaf for name, leaf in parameters.named_leaves(metadata.statistics).items()
             if isinstance(leaf, float)}
  for part, values in (('', parameters.stored(model)), ('statistics/', numbers)):
    parameters.check_finite({part + name: np.asarray(value) for name, value in values.items()}, str(path))
  return model.computing_in(dtype) if dtype else model, metadata


def open_weights(path: str | os.PathLike) -> UnreadWeights:
  """Open the weights of a model, to be read one by one.

  Errors as for `load`; `read` raises ValueError for numbers that are not finite.
  """
  source = _open(packaged.resolve(path))

  def read(names: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in source.read(names):
      parameters.check_finite({name: value}, str(path))
      yield name, value
  return source._replace(read=read)


def _open(path: str | os.PathLike) -> UnreadWeights:
  if checkpoints.is_checkpoint(path):
    return checkpoints.open_weights(path)
  return safetensors.open_weights(path) if safetensors.find(path) else opened(load_model(path))


def read_json(path: str | os.PathLike) -> dict[str, Any]:
  """Return the JSON of a checkpoint or an export, without its weights.

  It is empty for other formats. Raises ValueError if it cannot be read.
  """
  path = packaged.resolve(path)
  if checkpoints.is_checkpoint(path):
    return checkpoints.read_json(path)
  return safetensors.read_json(path) if safetensors.find(path) else {}


def opened(model: PolicyModel) -> UnreadWeights:
  """Return the weights of a model as if they were not read."""
  read = parameters.reader(model)
  return UnreadWeights(model.config, parameters.stored_shapes(model),
                       lambda names: ((name, np.asarray(read(name))) for name in names))


def _read(path: str | os.PathLike, verify: bool) -> tuple[PolicyModel, PolicyMetadata]:
  if checkpoints.is_checkpoint(path):
    return checkpoints.load(path, verify=verify)
  if safetensors.find(path):
    return safetensors.load(path, verify=verify)
  if tf_rt1.find(path):
    return tf_rt1.load(path)
  if rt1_x.find(path):
    return rt1_x.load(path)
  folder = pathlib.Path(path)
  if not folder.exists():
    raise packaged.missing(path)
  limits.check_downloaded(folder)
  limits.check_all_downloaded(folder)
  content = f'it holds {sorted(p.name for p in folder.iterdir())[:5]}' if folder.is_dir() else 'it is a file'
  raise FileNotFoundError(
      f'no model at {path} ({content}): expected an rtjax run or checkpoint folder, a TensorFlow checkpoint '
      '(PREFIX.index), a SavedModel folder (variables/variables.index), a Flax checkpoint of RT-1-X, or one '
      'safetensors file of rtjax.')
