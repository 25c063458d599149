"""Reference weights of the TensorFlow RT-1, written as a genuine checkpoint once per test run."""
import atexit
import functools
import importlib.util
import json
import pathlib
import shutil
import sys
import tempfile

import numpy as np

from rtjax.models import RT1
from rtjax.pretrained import tf_rt1

PREFIX = 'agent/_actor_network/'


@functools.cache
def checkpoint(shared: pathlib.Path) -> str:
  """Return the prefix of a checkpoint with the released names and shapes."""
  folder = pathlib.Path(tempfile.mkdtemp(prefix='rt1_golden_'))
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  return load_script(shared / 'parity/rt1_tf/make_checkpoint.py').write(folder, 'public')


@functools.cache
def model(shared: pathlib.Path) -> RT1:
  return tf_rt1.load(checkpoint(shared))[0]


@functools.cache
def load_script(path: pathlib.Path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  sys.modules[path.stem] = module
  spec.loader.exec_module(module)
  return module


def probe(shared: pathlib.Path, name: str, value: np.ndarray) -> float:
  """Return a variable's inner product with a fixed random direction, in the variable's released shape."""
  manifest = json.loads((shared / 'parity/rt1_tf/manifest_rt1main.json').read_text())['variables']
  shape = tuple(manifest[name]['shape'])
  fill = load_script(shared / 'parity/fill.py').fill
  return float(np.sum(np.asarray(value, np.float64).reshape(shape) * fill(name, shape, 'kernel', 1, 'probe')))
