"""Episodes of an evaluation, and the log of the finished ones."""
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rtjax.runtime import limits

FORMAT = 2
FIRST_SEED = 3_000_000_000
"""Recorded demonstrations have seeds below 2 ** 31, so that no start of an evaluation was trained on."""


@dataclasses.dataclass(frozen=True)
class EpisodeId:
  """Split, skill and seed of an episode, which determine its start."""
  split: str
  skill: str
  seed: int

  @classmethod
  def of(cls, record: Mapping[str, Any]) -> 'EpisodeId':
    return cls(record['split'], record['skill'], record['seed'])

  @property
  def name(self) -> str:
    return f'{self.split}-{self.skill or "any"}-{self.seed}'


def episode_ids(splits: Mapping[str, Sequence[str]], episodes: int, first_seed: int = FIRST_SEED) -> list[EpisodeId]:
  """List the episodes of an evaluation.

  The i-th episode of a split has the seed first_seed + i; the skills of a split take turns. A list of more episodes
  starts with the same ones in each split.

  Args:
    splits: the skills of each split; empty where the seed alone determines the task.
    episodes: number per split.
  """
  return [EpisodeId(split, skills[i % len(skills)] if skills else '', first_seed + i)
          for split, skills in splits.items() for i in range(episodes)]


def as_json(record: dict[str, Any]) -> dict[str, Any]:
  """Return a record as JSON keeps it; NumPy's numbers become Python's.

  Raises:
    ValueError: an environment's info holds something else.
  """
  def plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
      return value.tolist()
    raise ValueError(f"the environment's info holds {limits.short(value)} of type {type(value).__name__}, expected "
                     'what JSON can hold: texts, numbers, lists.')
  return json.loads(json.dumps(record, default=plain))


class EpisodeLog:
  """Log of one agent's finished episodes.

  A file of JSON lines: the header, then one record per episode. An incomplete last line, left by a killed process, is
  dropped.

  Args:
    folder: `episodes.jsonl` is written here.
    header: settings that must be equal for episodes to be comparable.

  Raises:
    ValueError: the folder holds episodes with another header, or a damaged log.
  """

  def __init__(self, folder: pathlib.Path, header: dict[str, Any]):
    self.path = folder / 'episodes.jsonl'
    folder.mkdir(parents=True, exist_ok=True)
    header = json.loads(json.dumps({'format': FORMAT, **header}))
    lines = self._complete_lines()
    if lines:
      _require_same_header(self.path, lines[0], header)
    else:
      self._append(header)
    self._records = {EpisodeId.of(record): record for record in lines[1:]}

  def missing(self, episodes: Sequence[EpisodeId]) -> list[EpisodeId]:
    return [episode for episode in episodes if episode not in self._records]

  def records(self, episodes: Sequence[EpisodeId]) -> list[dict[str, Any]]:
    """Return the records of `episodes`, in this order, without the unfinished ones."""
    return [self._records[episode] for episode in episodes if episode in self._records]

  def add(self, record: dict[str, Any]) -> None:
    self._append(record)
    self._records[EpisodeId.of(record)] = record

  def _append(self, line: dict[str, Any]) -> None:
    with self.path.open('a', encoding='utf-8') as file:
      file.write(json.dumps(line) + '\n')
      file.flush()
      os.fsync(file.fileno())

  def _complete_lines(self) -> list[dict[str, Any]]:
    if not self.path.exists():
      return []
    content = self.path.read_bytes()
    complete = content[:content.rfind(b'\n') + 1]
    if len(complete) < len(content):
      os.truncate(self.path, len(complete))
    try:
      lines = [limits.json_object(limits.parse_json(line, 'a line'), 'a line') for line in complete.splitlines()]
      for record in lines[1:]:
        EpisodeId.of(record)
      return lines
    except (KeyError, ValueError) as error:
      raise ValueError(f'{self.path} is damaged: {error}. Remove it, or choose another folder with --output.'
                       ) from error


def _require_same_header(path: pathlib.Path, logged: dict[str, Any], current: dict[str, Any]) -> None:
  differences = [f'{key}: logged {logged.get(key)}, current {current.get(key)}'
                 for key in sorted({*logged, *current}) if logged.get(key) != current.get(key)]
  if differences:
    raise ValueError(f'{path} holds episodes of another evaluation ({"; ".join(differences)}). Choose another folder '
                     'with --output, or remove it.')
