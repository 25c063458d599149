"""Reference weights of RT-1-X, written as a checkpoint once per test run."""
import atexit
import functools
import pathlib
import shutil
import tempfile

from helpers.golden_rt1 import load_script
from rtjax.models import RT1
from rtjax.pretrained import rt1_x


@functools.cache
def script(shared: pathlib.Path):
  """Return the module make_checkpoint.py beside the golden arrays."""
  return load_script(shared / 'parity/rt1_x/make_checkpoint.py')


@functools.cache
def variables(shared: pathlib.Path, manifest: str = 'rt1_x') -> dict:
  """Return {'params': ..., 'batch_stats': ...}, nested as in Flax."""
  return script(shared).variables(shared / f'parity/rt1_x/manifest_{manifest}.json', 'public')


@functools.cache
def checkpoint(shared: pathlib.Path) -> pathlib.Path:
  temporary = tempfile.mkdtemp(prefix='rt1_x_golden_')
  atexit.register(shutil.rmtree, temporary, ignore_errors=True)
  folder = pathlib.Path(temporary) / 'rt_1_x_jax'
  script(shared).write(variables(shared), folder, 'checkpoint')
  return folder


@functools.cache
def model(shared: pathlib.Path) -> RT1:
  return rt1_x.load(checkpoint(shared))[0]


def flat(tree: dict, prefix: str = '') -> dict:
  """Return {'params/Transformer_0/...': array}."""
  leaves = {}
  for key, value in tree.items():
    leaves |= flat(value, f'{prefix}{key}/') if isinstance(value, dict) else {f'{prefix}{key}': value}
  return leaves
