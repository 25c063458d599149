"""Readers of weights, rtjax's own and released ones: `load_model` finds out which it is."""
import os
import pathlib

from rtjax.models import Model
from rtjax.pretrained import rt1_x, safetensors, tf_rt1
from rtjax.pretrained.huggingface import load_huggingface as load_huggingface


def load_model(path: str | os.PathLike) -> Model:
  """Loads a model; its format is detected and its architecture read from it.

  Args:
    path: an rtjax run folder or one checkpoint in it; or a released TensorFlow RT-1: a checkpoint prefix, its folder,
      or a SavedModel folder (needs `pip install rtjax[data]`); or a released RT-1-X: its msgpack file, the folder
      around it, or an Orbax folder; or a safetensors file of `python -m rtjax.export`, or its folder.

  Returns:
    The network in inference mode: `model(images, embeddings)`; `model.config` tells its shape.

  Raises:
    FileNotFoundError: nothing is there, or nothing that is known.
    ValueError: the file is of a known kind but does not fit the network; the error names the variables.
  """
  from rtjax.training import checkpoint
  if checkpoint.is_checkpoint(path):
    return checkpoint.load_model(path)
  if safetensors.find(path):
    return safetensors.load(path)
  if tf_rt1.find(path):
    return tf_rt1.load(path)
  if rt1_x.find(path):
    return rt1_x.load(path)
  folder = pathlib.Path(path)
  if not folder.exists():
    raise FileNotFoundError(f'no model at {path}: there is no such file or folder.')
  held = f'it holds {sorted(p.name for p in folder.iterdir())[:5]}' if folder.is_dir() else 'it is a file'
  raise FileNotFoundError(
      f'no model at {path} ({held}): expected an rtjax run or checkpoint folder, a TensorFlow checkpoint '
      '(PREFIX.index), a SavedModel folder (variables/variables.index), a Flax checkpoint of RT-1-X, or one '
      'safetensors file of rtjax.')
