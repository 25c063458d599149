"""Which episodes a policy is judged on, and the log of those that are done."""
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

FORMAT = 1
FIRST_SEED = 3_000_000_000
"""Recorded demonstrations have seeds below 2 ** 31, so no start of an evaluation was ever trained on."""


@dataclasses.dataclass(frozen=True)
class Entry:
  """One episode to run."""
  split: str
  skill: str
  seed: int

  @property
  def name(self) -> str:
    return f'{self.split}-{self.skill or "any"}-{self.seed}'


def entries(splits: Mapping[str, Sequence[str]], episodes: int, first_seed: int = FIRST_SEED) -> list[Entry]:
  """`episodes` of each split, its skills in turn; the i-th has the seed first_seed + i.

  A longer list begins with a shorter one's, split by split.

  Args:
    splits: the skills of each split; none where the seed alone decides.
  """
  return [Entry(split, skills[i % len(skills)] if skills else '', first_seed + i)
          for split, skills in splits.items() for i in range(episodes)]


class Log:
  """The finished episodes of one policy, a file of JSON lines: the protocol, then one line an episode.

  Args:
    folder: gets `episodes.jsonl`. A last line that was cut off, because the process was killed, is dropped.
    header: what must be the same for episodes to be comparable.

  Raises:
    ValueError: the folder holds episodes under another header.
  """

  def __init__(self, folder: pathlib.Path, header: dict[str, Any]):
    self.path = folder / 'episodes.jsonl'
    folder.mkdir(parents=True, exist_ok=True)
    header = json.loads(json.dumps({'format': FORMAT, **header}))
    lines = self._whole_lines()
    if lines:
      _refuse_other(self.path, lines[0], header)
    else:
      self._append(header)
    self._records = {_entry(record): record for record in lines[1:]}

  def missing(self, wanted: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in wanted if entry not in self._records]

  def records(self, wanted: Sequence[Entry]) -> list[dict[str, Any]]:
    """What was logged of `wanted`, in its order; episodes that are not done yet are left out."""
    return [self._records[entry] for entry in wanted if entry in self._records]

  def add(self, record: dict[str, Any]) -> None:
    self._append(record)
    self._records[_entry(record)] = record

  def _append(self, line: dict[str, Any]) -> None:
    with self.path.open('a', encoding='utf-8') as file:
      file.write(json.dumps(line) + '\n')
      file.flush()
      os.fsync(file.fileno())

  def _whole_lines(self) -> list[dict[str, Any]]:
    if not self.path.exists():
      return []
    content = self.path.read_bytes()
    whole = content[:content.rfind(b'\n') + 1]
    if len(whole) < len(content):
      os.truncate(self.path, len(whole))
    try:
      return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
      raise ValueError(f'{self.path} is damaged: {error}. Remove it, or choose another folder with --output.'
                       ) from error


def _entry(record: dict[str, Any]) -> Entry:
  return Entry(record['split'], record['skill'], record['seed'])


def _refuse_other(path: pathlib.Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
  differing = [f'{key} {found.get(key)} there, {wanted.get(key)} now'
               for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)]
  if differing:
    raise ValueError(f'{path} holds episodes of another evaluation ({"; ".join(differing)}). Choose another folder '
                     'with --output, or remove it.')
