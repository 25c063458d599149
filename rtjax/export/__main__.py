"""Command to export a policy: python -m rtjax.export CHECKPOINT --to FORMAT"""
import dataclasses
import pathlib
from typing import Annotated

import tyro

from rtjax import packaged
from rtjax.data import names
from rtjax.runtime import cli, interrupt
from rtjax.runtime.suggest import did_you_mean

FORMATS = ('savedmodel', 'stablehlo', 'onnx', 'safetensors')


@dataclasses.dataclass(frozen=True)
class Config:
  """Export a policy to another format, and compare it with the model.

  docs/guides/export.md describes the formats and their interfaces.
  """
  checkpoint: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar='CHECKPOINT')]]
  """Run folder of train.py (its newest checkpoint is taken), the folder of one step, released weights, or a packaged
  policy, such as rt1_tabletop."""
  to: Annotated[str, tyro.conf.arg(metavar='{' + ','.join(FORMATS) + '}')]
  """Format to write."""
  int8: bool = False
  """Store weights as int8; in ONNX, matrix products run in 8 bits as well."""
  output: str = ''
  """Folder to write, which must be empty or not exist; empty = exports/CHECKPOINT-FORMAT."""
  image_size: tuple[int, int] | None = None
  """Height and width of the robot's images; not set = those of training, or 256 320 for released weights."""
  dataset: str = ''
  """Episodes to verify on: folder of an RLDS dataset, gs:// folder or TFDS name; empty = seeded noise."""
  split: str = 'val'
  """Split of the dataset, or a part of one."""
  frames: int = 200
  """Number of frames to verify on."""
  verify: bool = True
  """Compare the checksums of the checkpoint's files before it is read."""

  def check(self) -> None:
    if self.to not in FORMATS:
      raise ValueError(f'--to is {self.to!r}, expected one of {", ".join(FORMATS)}.{did_you_mean(self.to, FORMATS)}')
    if self.frames < 1:
      raise ValueError(f'--frames is {self.frames}, it must be at least 1.')
    if self.image_size and min(self.image_size) < 1:
      raise ValueError(f'--image-size is {self.image_size}, expected a height and a width of at least 1.')

  def folder(self) -> pathlib.Path:
    suffix = f'{self.to}-int8' if self.int8 else self.to
    return pathlib.Path(self.output or f'exports/{pathlib.Path(self.checkpoint).resolve().name}-{suffix}')


def main() -> None:
  config = tyro.cli(Config, prog=cli.prog('python -m rtjax.export'))
  config.check()
  packaged.require(config.checkpoint)
  if config.dataset:
    names.require(config.dataset)
  interrupt.keep('Nothing was written; the same command starts again.')
  # Imported here, because it takes seconds that --help should not wait for.
  from rtjax.export import run
  run.export(config.checkpoint, config.to, config.folder(), int8=config.int8, image_size=config.image_size,
             dataset=config.dataset, split=config.split, frames=config.frames, verify=config.verify)


if __name__ == '__main__':
  cli.run(main)
