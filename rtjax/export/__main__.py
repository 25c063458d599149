"""Exports a policy for other runtimes: python -m rtjax.export CHECKPOINT --to FORMAT"""
import dataclasses
import difflib
import pathlib
from typing import Annotated

import tyro

from rtjax.runtime import cli

FORMATS = ('savedmodel', 'stablehlo', 'onnx', 'safetensors')


@dataclasses.dataclass(frozen=True)
class Config:
  """Writes a policy in another format, runs it back, and compares it with the model before it says done.

  docs/export.md tells which format is for which runtime, and each one's interface.
  """
  checkpoint: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar='CHECKPOINT')]]
  """A folder that train.py wrote (its newest checkpoint counts), one step's folder in it, or released weights."""
  to: Annotated[str, tyro.conf.arg(metavar='{' + ','.join(FORMATS) + '}')]
  """The format."""
  int8: bool = False
  """8-bit weights; in ONNX, matrix products in 8 bits as well."""
  output: str = ''
  """Folder to write into, which must not hold anything; empty = exports/CHECKPOINT-FORMAT."""
  picture: tuple[int, int] | None = None
  """Height and width of the pictures that the robot will give; empty = as in training, 256 320 for released weights."""
  dataset: str = ''
  """Episodes to compare on: folder of an RLDS dataset, gs:// folder or TFDS name; empty = seeded noise."""
  split: str = 'val'
  """Which episodes: a split of the dataset, or a part of one."""
  frames: int = 200
  """How many frames to compare on, the first ones."""

  def check(self) -> None:
    if self.to not in FORMATS:
      close = difflib.get_close_matches(self.to, FORMATS, 1)
      hint = f' Did you mean {close[0]!r}?' if close else ''
      raise ValueError(f'--to is {self.to!r}, expected one of {", ".join(FORMATS)}.{hint}')
    if self.frames < 1:
      raise ValueError(f'--frames is {self.frames}, it must be at least 1.')
    if self.picture and min(self.picture) < 1:
      raise ValueError(f'--picture is {self.picture}, expected a height and a width of at least 1.')

  def folder(self) -> pathlib.Path:
    kind = f'{self.to}-int8' if self.int8 else self.to
    return pathlib.Path(self.output or f'exports/{pathlib.Path(self.checkpoint).resolve().name}-{kind}')


def main() -> None:
  config = tyro.cli(Config, prog='python -m rtjax.export')
  config.check()
  # Only now: this takes seconds, and --help should not wait for it.
  from rtjax.export import run
  run.export(config.checkpoint, config.to, config.folder(), int8=config.int8, picture=config.picture,
             dataset=config.dataset, split=config.split, frames=config.frames)


if __name__ == '__main__':
  cli.run(main)
