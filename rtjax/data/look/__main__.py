"""Write a page that shows a dataset.

    python -m rtjax.data.look data/built/my_robot
"""
import pathlib

import tyro

from rtjax.data import names
from rtjax.runtime import cli


def look(dataset: str, out: pathlib.Path = pathlib.Path('dataset.html'), split: str = 'train', action_spec: str = '',
         episodes: int = 4, most: int = 1000) -> None:
  """Write one self-contained HTML page that shows a dataset.

  Args:
    dataset: folder of an RLDS or LeRobot dataset, gs:// folder or TFDS name.
    out: file to write.
    split: episodes to read, in TFDS's split algebra.
    action_spec: ActionSpec whose fields and bounds are shown: a name, or a JSON file. Empty: the first known one whose
      fields the dataset has.
    episodes: episodes with images and curves, evenly spaced.
    most: episodes read for the figures, evenly spaced if there are more.
  """
  if episodes < 0 or most < 1:
    raise ValueError(f'--episodes is {episodes} and --most {most}, expected at least 0 and 1.')
  names.require(dataset)
  if not out.parent.is_dir():
    raise FileNotFoundError(f'--out is {out}: there is no folder {out.parent}.')
  from rtjax.data.look import page, summary  # imported here so that --help does not wait for TensorFlow
  found = summary.summarize(dataset, split, action_spec, episodes, most)
  out.write_text(page.page(found), encoding='utf-8')
  for finding in found.findings:
    print(f'finding: {finding}')
  print(f'{len(found.lengths)} episodes, {found.lengths.sum()} steps: {out}')


def main() -> None:
  tyro.cli(look, prog=cli.prog('python -m rtjax.data.look'), config=(tyro.conf.PositionalRequiredArgs,))


if __name__ == '__main__':
  cli.run(main)
