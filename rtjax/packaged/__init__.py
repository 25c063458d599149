"""Trained policies in the package, by name: `rtjax.load_policy('rt1_tabletop')`.

Each is NAME.safetensors, its weights in half precision with the metadata of its checkpoint, and NAME.md, its model
card. A name is valid where a path of weights is; an existing file or folder of that name is taken first.
bench/package_weights.py writes both files.
"""
import os
import pathlib

from rtjax.runtime import cli
from rtjax.runtime.suggest import did_you_mean

FOLDER = pathlib.Path(__file__).parent


def names() -> list[str]:
  return sorted(path.stem for path in FOLDER.glob('*.safetensors'))


def resolve(path: str | os.PathLike) -> str | os.PathLike:
  """Return the file that a packaged name stands for, else the path."""
  if os.fspath(path) not in names():
    return path
  file = FOLDER / f'{path}.safetensors'
  if not cli.weights_exist(path):
    return file
  cli.note(f'{path} is a file or folder here, which is read. The packaged policy of that name is {file}.')
  return path


def require(path: str) -> None:
  """Require that a path of weights exists, or names a packaged policy.

  Raises FileNotFoundError.
  """
  if path not in names() and not cli.weights_exist(path):
    raise missing(path)


def missing(path: str | os.PathLike) -> FileNotFoundError:
  """Return the error of a path at which there is nothing."""
  return FileNotFoundError(f'no model at {path}: there is no such file or folder, and no packaged policy of that name '
                           f'(there are: {", ".join(names())}).{did_you_mean(path, names())}')
