"""Sources of image-text pairs: folders with JSONL, tar shards, and TFDS datasets.

A source's split is a number of images, each with one or more pairs of a prompt and an answer. In the pipeline an image
takes the place of an episode, and a pair that of a window.

    photos/train.jsonl          {"image": "a/1.jpg", "caption": "..."}       one line for each pair
    shards/train-000000.tar     key.jpg with key.txt (a caption) or key.json, as in WebDataset
    coco_captions, a folder     written by TFDS, in one of tfds_source.LAYOUTS

The fields of a line, or of a .json, select the task:

    caption             describe the image
    question, answer    answer a question
    caption, answer     'yes' or 'no': does the caption describe the image?
    point, answer       point at an object: '3 5' is column and row of a grid over the image; an optional integer `grid`
                        is its number of cells across
    prompt, answer      a prompt to use as it is
"""
import pathlib
from typing import Protocol

from rtjax.data.image_text.file_source import open_jsonl, open_tar_shards
from rtjax.data.image_text.pairs import TextImage
from rtjax.data.image_text.tfds_source import TfdsSource
from rtjax.data.records import RecordSource


class Source(RecordSource[TextImage], Protocol):
  """One split of a source; `tasks` are those of its pairs."""
  tasks: tuple[str, ...]

  def with_task(self, task: str) -> 'Source':
    """Return the source with the pairs of one task alone."""


def open_source(name: str, split: str) -> Source:
  """Open a split of a source.

  The name is that of a folder of JSONL or tar shards, of a dataset's folder, or of a TFDS dataset. In a folder of JSONL
  the split is the file `{split}.jsonl`, in one of shards all `{split}*.tar`.

  Raises:
    FileNotFoundError: there is no such folder, dataset or split.
    ValueError: entries cannot be used; the message counts them and shows the first.
  """
  folder = pathlib.Path(name).expanduser()
  files = sorted(p for suffix in ('*.jsonl', '*.tar') for p in folder.glob(suffix)) if '://' not in name else []
  if not files:
    return TfdsSource(name, split)
  lines = [p for p in files if p.name == f'{split}.jsonl']
  shards = [p for p in files if p.suffix == '.tar' and p.name.startswith(split)]
  if lines:
    return open_jsonl(name, split, lines[0])
  if shards:
    return open_tar_shards(name, split, shards)
  raise FileNotFoundError(f'{name}: no split {split!r}, expected {split}.jsonl or {split}*.tar. The folder has '
                          f'{[p.name for p in files[:10]]}.')
