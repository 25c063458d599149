"""Changes to the files of a checkpoint."""
import pathlib
from collections.abc import Callable, Iterator

from etils import epath

from rtjax.runtime import checksums

UNREAD = ('_CHECKPOINT_METADATA', 'commit_success.txt')
"""Files of orbax without a checksum, which nothing reads."""


def change_metadata(step: pathlib.Path, change: Callable[[str], str]) -> None:
  """Change the JSON of a step and its checksum with it."""
  file = step / 'metadata' / 'metadata'
  file.write_text(change(file.read_text()))
  if (step / checksums.NAME).exists():
    checksums.write(epath.Path(step), omit=UNREAD)


def files(step: pathlib.Path) -> list[str]:
  return sorted(path.relative_to(step).as_posix() for path in step.rglob('*') if path.is_file())


def flipped(file: pathlib.Path, places: Iterator[int]) -> Iterator[int]:
  """Flip one bit of a file after another, and restore it."""
  content = file.read_bytes()
  for place in places:
    damaged = bytearray(content)
    damaged[place % len(content)] ^= 1 << place % 8
    file.write_bytes(damaged)
    yield place
  file.write_bytes(content)
