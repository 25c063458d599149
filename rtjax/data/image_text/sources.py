"""Where pictures with texts come from: TFDS datasets, folders with JSONL, and tar shards.

A source's split is a number of pictures, each with one or more pairs of a prompt and the text to answer it with. In the
pipeline a picture is what an episode is elsewhere, and a pair what a window is.

    photos/train.jsonl          {"image": "a/1.jpg", "caption": "..."}       one line for each pair
    shards/train-000000.tar     key.jpg with key.txt (a caption) or key.json, as WebDataset has them
    coco_captions, a folder     written by TFDS, in one of LAYOUTS

The fields of a line, or of a .json, say what is asked: `caption` alone, `question` and `answer`, `caption` and `answer`
('yes' or 'no': does it describe the picture?), `point` (a thing) and `answer` (where it is: '3 5', column and row of a
grid over the picture, whichever the source has), or `prompt` (used as it is) and `answer`.
"""
import collections
import dataclasses
import difflib
import hashlib
import json
import pathlib
import re
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from rtjax.data.records import Chunk, Records
from rtjax.data.tf import tf, tfds
from rtjax.language import prompts

_PICTURES = ('jpg', 'jpeg', 'png', 'bmp')
_SHOWN = 5  # of the entries that cannot be used
_FIELDS = (('caption',), ('question', 'answer'), ('caption', 'answer'), ('point', 'answer'), ('prompt', 'answer'))


@dataclasses.dataclass(frozen=True)
class Pair:
  """What is asked about a picture (the whole prompt), and the text to answer with; `kind` is one of prompts.KINDS."""
  kind: str
  prompt: str
  target: str


@dataclasses.dataclass(frozen=True)
class Picture:
  """An encoded picture and its pairs; `where` says in words where it comes from."""
  where: str
  image: bytes
  pairs: tuple[Pair, ...]

  def __len__(self) -> int:
    return len(self.pairs)


class Source(Protocol):
  """One split of a source, as mixture.Shuffled takes it."""
  name: str
  split: str
  num_episodes: int
  kinds: tuple[str, ...]

  @property
  def identity(self) -> str: ...
  def of(self, kind: str) -> 'Source':
    """The pairs of one kind alone."""
  def chunks(self, episodes: int) -> list[Chunk]: ...
  def read(self, chunks: Sequence[Chunk]) -> Iterator[Picture]: ...
  def no_steps(self) -> ValueError: ...


def open_source(name: str, split: str) -> Source:
  """The split of a folder of JSONL or of tar shards, of a dataset's folder, or of a TFDS name.

  In a folder of JSONL the split is the file `{split}.jsonl`, in one of shards all `{split}*.tar`.

  Raises:
    FileNotFoundError: there is no such folder, dataset or split.
    ValueError: something in it cannot be used; the message counts all that cannot, and shows the first.
  """
  folder = pathlib.Path(name).expanduser()
  files = sorted(p for ending in ('*.jsonl', '*.tar') for p in folder.glob(ending)) if '://' not in name else []
  if not files:
    return Tfds(name, split)
  chosen = [p for p in files if p.name == f'{split}.jsonl'] or [
      p for p in files if p.suffix == '.tar' and p.name.startswith(split)]
  if not chosen:
    raise FileNotFoundError(f'{name}: no split {split!r}, expected {split}.jsonl or {split}*.tar. The folder has '
                            f'{[p.name for p in files[:10]]}.')
  return Files(name, split, _lines(chosen[0]) if chosen[0].suffix == '.jsonl' else _members(name, chosen))


@dataclasses.dataclass(frozen=True)
class Entry:
  """A picture that is (part of) a file, and its one pair; `key` tells it from others of the source."""
  key: str
  file: pathlib.Path
  pair: Pair
  start: int = 0
  size: int = -1


class Files:
  """A source whose pictures are files, or parts of tar files; what is asked about them is in memory."""

  def __init__(self, name: str, split: str, entries: Sequence[Entry]):
    self.name, self.split, self._entries = name, split, entries
    self.num_episodes = len(entries)
    self.kinds = tuple(kind for kind in prompts.KINDS if any(e.pair.kind == kind for e in entries))

  @property
  def identity(self) -> str:
    """Changes when other pairs, or the same in another order, are read; the folder may move."""
    digest = hashlib.sha256()
    for e in self._entries:
      digest.update(json.dumps([e.key, e.pair.kind, e.pair.prompt, e.pair.target]).encode())
    return digest.hexdigest()[:16]

  def of(self, kind: str) -> 'Files':
    return Files(self.name, self.split, [e for e in self._entries if e.pair.kind == kind])

  def chunks(self, episodes: int) -> list[Chunk]:
    return [Chunk(first, '', first, min(episodes, self.num_episodes - first))
            for first in range(0, self.num_episodes, episodes)]

  def read(self, chunks: Sequence[Chunk]) -> Iterator[Picture]:
    for chunk in chunks:
      for entry in self._entries[chunk.first:chunk.first + chunk.take]:
        with open(entry.file, 'rb') as file:
          file.seek(entry.start)
          yield Picture(f'{self.name}, {entry.key}', file.read(entry.size), (entry.pair,))

  def no_steps(self) -> ValueError:
    return ValueError(f'{self.name}: split {self.split!r} has no picture.')


def _lines(file: pathlib.Path) -> list[Entry]:
  entries, problems = [], []
  text = file.read_text('utf-8').splitlines()
  for number, line in enumerate(text, 1):
    if not line.strip():
      continue
    try:
      fields = json.loads(line)
      if not isinstance(fields, dict):
        raise ValueError(f'expected an object {{...}}, found {line[:40]!r}')
      image = fields.pop('image', None)
      if not isinstance(image, str) or not image:
        raise ValueError(f"'image' is {image!r}, expected the picture's path")
      pair = _pair(fields)
      if not (file.parent / image).is_file():
        raise ValueError(f'there is no picture {image!r} beside the file')
    except ValueError as error:  # json's own is one
      problems.append(f'line {number}: {error}')
    else:
      entries.append(Entry(f'line {number} ({image})', file.parent / image, pair))
  _report(str(file), 'lines', problems, len(text))
  return entries


def _members(name: str, shards: Sequence[pathlib.Path]) -> list[Entry]:
  entries, problems = [], []
  for shard in shards:
    try:
      with tarfile.open(shard, 'r:') as tar:  # 'r:' refuses compressed ones, in which nothing can be found again
        samples: dict[str, dict[str, tarfile.TarInfo]] = collections.defaultdict(dict)
        for member in tar:
          if member.isfile():
            folder, _, base = member.name.rpartition('/')
            key, _, ending = base.partition('.')
            samples[f'{folder}/{key}' if folder else key][ending.lower()] = member
        for key, parts in samples.items():
          try:
            entries.append(_sample(shard, tar, key, parts))
          except ValueError as error:
            problems.append(f'{shard.name}, {key}: {error}')
    except tarfile.TarError as error:
      raise ValueError(f'{shard}: cannot be read: {error}. Expected an uncompressed tar file; it may be cut off: '
                       'copy it again.') from error
  _report(name, 'samples', problems, len(entries) + len(problems))
  return entries


def _sample(shard: pathlib.Path, tar: tarfile.TarFile, key: str, parts: dict[str, tarfile.TarInfo]) -> Entry:
  unknown = set(parts) - {*_PICTURES, 'txt', 'json'}
  pictures = [parts[ending] for ending in _PICTURES if ending in parts]
  if unknown or len(pictures) != 1 or not {'txt', 'json'} & set(parts):
    raise ValueError(f'it has {sorted(parts)}, expected one picture ({", ".join(_PICTURES)}) and txt or json')
  # Where both are there, as img2dataset writes them, the text is the caption and the JSON says how it was found.
  member = parts.get('txt') or parts['json']
  text = tar.extractfile(member).read().decode('utf-8')  # type: ignore[union-attr]
  fields = {'caption': text} if 'txt' in parts else json.loads(text)
  if not isinstance(fields, dict):
    raise ValueError('its json is no object {...}')
  return Entry(f'{shard.name} ({key})', shard, _pair(fields), pictures[0].offset_data, pictures[0].size)


def _pair(fields: dict[str, Any]) -> Pair:
  """What the fields of a line or of a .json ask."""
  known = sorted({name for names in _FIELDS for name in names})
  for field, value in fields.items():
    if field not in known:
      close = difflib.get_close_matches(field, known, 1)
      raise ValueError(f'unknown field {field!r}, expected {known}.'
                       + (f' Did you mean {close[0]!r}?' if close else ''))
    if not isinstance(value, str) or not value.strip():
      raise ValueError(f'{field!r} is {value!r}, expected a text')
  if tuple(sorted(fields)) not in {tuple(sorted(names)) for names in _FIELDS}:
    raise ValueError(f'it has {sorted(fields)}, expected one of {[list(names) for names in _FIELDS]}')
  if 'prompt' in fields:
    return Pair('vqa', fields['prompt'].strip(), fields['answer'].strip())
  if 'question' in fields:
    return pair('vqa', fields['question'], fields['answer'])
  if 'point' in fields:
    return pair('point', fields['point'], fields['answer'])
  if 'answer' in fields:
    return pair('match', fields['caption'], fields['answer'])
  return pair('caption', '', fields['caption'])


def pair(kind: str, question: str, answer: str) -> Pair:
  """The pair of a question (or a caption that may fit) and its answer, both not empty; a caption has no question."""
  answer = answer.strip()
  if not answer:
    raise ValueError(f'the answer to {question!r} is empty')
  if kind == 'match' and answer not in ('yes', 'no'):
    raise ValueError(f"the answer to a match is {answer!r}, expected 'yes' or 'no'")
  if kind == 'point' and not re.fullmatch(r'\d+ \d+', answer):
    raise ValueError(f"the answer to pointing is {answer!r}, expected column and row, such as '3 5'")
  return Pair(kind, prompts.prompt(kind, question), answer)


def _report(name: str, what: str, problems: list[str], total: int) -> None:
  """Raises if there are problems, with their number and the first."""
  if problems:
    more = f'\n  and {len(problems) - _SHOWN} more' if len(problems) > _SHOWN else ''
    raise ValueError(f'{name}: {len(problems)} of {total} {what} cannot be used. Mend or remove them.'
                     + ''.join(f'\n  {problem}' for problem in problems[:_SHOWN]) + more)


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where a TFDS dataset has its texts; paths are '/'-separated. `kind` is one of prompts.KINDS, or a path."""
  kind: str
  answer: str
  question: str = ''
  image: str = 'image'

  @property
  def paths(self) -> tuple[str, ...]:
    kind = () if self.kind in prompts.KINDS else (self.kind,)
    return tuple(filter(None, (self.image, self.answer, self.question, *kind)))


LAYOUTS = [
    Layout('pairs/kind', 'pairs/answer', 'pairs/question'),  # tabletop_qa
    Layout('caption', 'captions/text'),  # coco_captions
    Layout('vqa', 'question_answer/answer', 'question_answer/question'),  # clevr
    Layout('vqa', 'answer', 'question'),
    Layout('caption', 'caption'),  # laion400m/images
]
"""The first whose paths a dataset has is taken. Others are added in front: `LAYOUTS.insert(0, Layout(...))`."""


class Tfds(Records):
  """A source that TFDS wrote."""

  what = 'picture'

  def __init__(self, name: str, split: str, kind: str = ''):
    super().__init__(name, split)
    self._kind = kind
    features = _paths(self._builder.info.features.get_serialized_info())
    found = [layout for layout in LAYOUTS if set(layout.paths) <= features]
    if not found:
      raise ValueError(f'{name}: pictures with texts have one of the features '
                       f'{[list(layout.paths) for layout in LAYOUTS]}, this dataset has {sorted(features)}. Name '
                       'yours in rtjax.data.image_text.sources.LAYOUTS.')
    self._layout = found[0]
    image = self._builder.info.features[self._layout.image]
    if not isinstance(image, tfds.features.Image):
      raise ValueError(f'{name}: {self._layout.image!r} is {image}, expected a tfds.features.Image.')
    several = (self._builder.info.metadata or {}).get('kinds', ('caption', 'vqa', 'match'))
    self.kinds = (self._layout.kind,) if self._layout.kind in prompts.KINDS else tuple(several)

  def of(self, kind: str) -> 'Tfds':
    return Tfds(self.name, self.split, kind)

  def read(self, chunks: Sequence[Chunk]) -> Iterator[Picture]:
    for number, record in self.records(chunks):
      where = f'{self.name}, picture {number} of {self.split!r}'
      try:
        yield Picture(where, record.features.feature[self._layout.image].bytes_list.value[0],
                      tuple(p for p in self._pairs(record) if self._kind in ('', p.kind)))
      except (ValueError, IndexError) as error:
        raise ValueError(f'{where}: {error}. Mend or drop it.') from error

  def no_steps(self) -> ValueError:
    return ValueError(f'{self.name}: no picture of split {self.split!r} has a text' + (
        f' of the kind {self._kind!r}.' if self._kind else '.'))

  def _pairs(self, record: tf.train.Example) -> Iterator[Pair]:
    def texts(path: str) -> list[str]:
      return [value.decode('utf-8', 'replace') for value in record.features.feature[path].bytes_list.value]

    answers = texts(self._layout.answer)
    questions = texts(self._layout.question) if self._layout.question else [''] * len(answers)
    kinds = [self._layout.kind] * len(answers) if self._layout.kind in prompts.KINDS else texts(self._layout.kind)
    for kind, question, answer in zip(kinds, questions, answers, strict=True):
      yield pair(kind, question, answer)


def _paths(info: Any, prefix: str = '') -> set[str]:
  """The '/'-separated paths of serialized features."""
  if not isinstance(info, dict):
    return {prefix}
  return {path for key, inner in info.items() for path in _paths(inner, f'{prefix}/{key}' if prefix else key)}
