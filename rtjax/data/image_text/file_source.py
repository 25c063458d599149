"""Image-text pairs in files: JSONL beside images, and tar shards."""
import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import tarfile
from collections.abc import Iterator, Sequence

from rtjax.data.image_text.pairs import Pair, TextImage, parse_fields
from rtjax.data.records import Chunk, RecordSource
from rtjax.language import prompts
from rtjax.runtime import limits

_IMAGE_SUFFIXES = ('jpg', 'jpeg', 'png', 'bmp')
_MAX_SHOWN = 5  # problems that a message lists


@dataclasses.dataclass(frozen=True)
class Entry:
  """An image in (part of) a file, and its one pair.

  `key` identifies it in the source.
  """
  key: str
  file: pathlib.Path
  pair: Pair
  start: int = 0
  size: int = -1


class FileSource(RecordSource[TextImage]):
  """Source of images in files or tar files; texts are in memory."""

  record_name = 'image'

  def __init__(self, name: str, split: str, entries: Sequence[Entry]):
    self.name, self.split, self._entries = name, split, entries
    self.num_records = len(entries)
    self.tasks = tuple(task for task in prompts.TASKS if any(e.pair.task == task for e in entries))

  @property
  def identity(self) -> str:
    digest = hashlib.sha256()
    for e in self._entries:
      digest.update(json.dumps([e.key, e.pair.task, e.pair.prompt, e.pair.target]).encode())
    return digest.hexdigest()[:16]

  def with_task(self, task: str) -> 'FileSource':
    return FileSource(self.name, self.split, [e for e in self._entries if e.pair.task == task])

  def chunks(self, size: int) -> list[Chunk]:
    return [Chunk(first, '', first, min(size, self.num_records - first)) for first in range(0, self.num_records, size)]

  def read(self, chunks: Sequence[Chunk]) -> Iterator[TextImage]:
    for chunk in chunks:
      for entry in self._entries[chunk.first:chunk.first + chunk.take]:
        with open(entry.file, 'rb') as file:
          file.seek(entry.start)
          yield TextImage(f'{self.name}, {entry.key}', file.read(entry.size), (entry.pair,))

  def empty_error(self) -> ValueError:
    return ValueError(f'{self.name}: split {self.split!r} has no image.')


def open_jsonl(name: str, split: str, file: pathlib.Path) -> FileSource:
  """Open a JSONL file, one pair a line.

  Raises:
    ValueError: lines cannot be used.
  """
  entries, problems, number = [], [], 0
  for number, line in limits.lines(limits.inside(file.parent, file.name)):
    if not line.strip():
      continue
    try:
      entries.append(_parse_line(file.parent, number, line))
    except (ValueError, OSError) as error:
      problems.append(f'line {number}: {error}')
  _raise_problems(str(file), 'lines', problems, number)
  return FileSource(name, split, entries)


def _parse_line(folder: pathlib.Path, number: int, line: bytes) -> Entry:
  fields = limits.json_object(limits.parse_json(line, 'the text'), 'the text')
  image = fields.pop('image', None)
  if not isinstance(image, str) or not image:
    raise ValueError(f"'image' is {image!r}, expected the path of the image")
  pair = parse_fields(fields)
  path = limits.inside(folder, image)
  if not path.is_file():
    raise ValueError(f'there is no image {image!r} beside the file')
  limits.check_file(path, limits.IMAGE_BYTES)
  return Entry(f'line {number} ({image})', path, pair)


def open_tar_shards(name: str, split: str, shards: Sequence[pathlib.Path]) -> FileSource:
  """Open tar shards, one pair a sample.

  Raises:
    ValueError: samples or shards cannot be used.
  """
  entries, problems = [], []
  for shard in shards:
    limits.check_file(limits.inside(shard.parent, shard.name))
    try:
      with tarfile.open(shard, 'r:') as tar:  # 'r:' refuses compressed files, which allow no random access
        for key, parts in _group_samples(tar).items():
          try:
            entries.append(_parse_sample(shard, tar, key, parts))
          except ValueError as error:
            problems.append(f'{shard.name}, {key}: {error}')
    except limits.BoundError:
      raise
    except (tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError) as error:
      raise ValueError(f'{shard}: cannot be read: {error}. Expected an uncompressed tar file; it may be truncated: '
                       'copy it again.') from error
  _raise_problems(name, 'samples', problems, len(entries) + len(problems))
  return FileSource(name, split, entries)


def _group_samples(tar: tarfile.TarFile) -> dict[str, dict[str, tarfile.TarInfo]]:
  """Return the members of each sample as {key: {suffix: member}}."""
  samples: dict[str, dict[str, tarfile.TarInfo]] = collections.defaultdict(dict)
  end = os.path.getsize(str(tar.name))
  for member in tar:
    if member.sparse is not None or not 0 <= member.size <= end - member.offset_data:
      raise limits.BoundError(f'{tar.name!s}: cannot be read: {member.name!r} declares {member.size:,} bytes, which '
                              f'the file of {end:,} does not hold. Expected whole members, none of them sparse.')
    if member.isfile():
      folder, _, base = member.name.rpartition('/')
      key, _, suffix = base.partition('.')  # as WebDataset: the key ends at the first dot
      samples[f'{folder}/{key}' if folder else key][suffix.lower()] = member
  return samples


def _parse_sample(shard: pathlib.Path, tar: tarfile.TarFile, key: str, parts: dict[str, tarfile.TarInfo]) -> Entry:
  unknown = set(parts) - {*_IMAGE_SUFFIXES, 'txt', 'json'}
  images = [parts[suffix] for suffix in _IMAGE_SUFFIXES if suffix in parts]
  if unknown or len(images) != 1 or not {'txt', 'json'} & set(parts):
    raise ValueError(f'it has {sorted(parts)}, expected one image ({", ".join(_IMAGE_SUFFIXES)}) and txt or json')
  # With both, as img2dataset writes them, the text is the caption and the JSON describes the download.
  member = parts.get('txt') or parts['json']
  limits.check_size(member.size, limits.SENTENCE_BYTES, member.name)
  limits.check_size(images[0].size, limits.IMAGE_BYTES, images[0].name)
  text = tar.extractfile(member).read().decode('utf-8')  # type: ignore[union-attr]
  fields = {'caption': text} if 'txt' in parts else limits.json_object(limits.parse_json(text, 'its json'), 'its json')
  return Entry(f'{shard.name} ({key})', shard, parse_fields(fields), images[0].offset_data, images[0].size)


def _raise_problems(name: str, unit: str, problems: list[str], total: int) -> None:
  """Raise an error that counts the problems, if there are any."""
  if problems:
    more = f'\n  and {len(problems) - _MAX_SHOWN} more' if len(problems) > _MAX_SHOWN else ''
    raise ValueError(f'{name}: {len(problems)} of {total} {unit} cannot be used. Fix or remove them.'
                     + ''.join(f'\n  {problem}' for problem in problems[:_MAX_SHOWN]) + more)
