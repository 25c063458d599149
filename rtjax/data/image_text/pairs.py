"""Pairs of a prompt about an image and the text to answer."""
import dataclasses
import re
from typing import Any

from rtjax.language import prompts
from rtjax.runtime.suggest import did_you_mean

# The sets of fields that describe a pair; a point may also have a 'grid'.
_FIELD_SETS = (('caption',), ('question', 'answer'), ('caption', 'answer'), ('point', 'answer'), ('prompt', 'answer'))


@dataclasses.dataclass(frozen=True)
class Pair:
  """A prompt about an image, and its answer.

  Attributes:
    task: one of prompts.TASKS.
    prompt: the full prompt.
    target: the answer.
    grid: cells across (and down) of the grid of a pointing answer; 0 where unknown, and for other tasks.
  """
  task: str
  prompt: str
  target: str
  grid: int = 0

  @property
  def point(self) -> tuple[int, int] | None:
    """Column and row of a pointing answer; None for other tasks."""
    if self.task != 'point':
      return None
    column, row = self.target.split()
    return int(column), int(row)


@dataclasses.dataclass(frozen=True)
class TextImage:
  """An encoded image and its pairs.

  `source` names file and line, or dataset and record, in messages.
  """
  source: str
  encoded: bytes
  pairs: tuple[Pair, ...]

  def __len__(self) -> int:
    return len(self.pairs)


def make_pair(task: str, question: str, answer: str, grid: int = 0) -> Pair:
  """Return the pair of a question and its answer.

  Args:
    task: one of prompts.TASKS.
    question: the question, the caption to match, or the object to point at; empty for a caption.
    answer: the caption, or the answer.
    grid: cells across of the grid of a pointing answer; 0 where unknown.

  Raises:
    ValueError: the answer is empty, not an answer to this task, or outside the grid.
  """
  answer = answer.strip()
  if not answer:
    raise ValueError(f'the answer to {question!r} is empty')
  if task == 'match' and answer not in ('yes', 'no'):
    raise ValueError(f"the answer to a match is {answer!r}, expected 'yes' or 'no'")
  if task != 'point':
    return Pair(task, prompts.prompt(task, question), answer)
  if not re.fullmatch(r'\d+ \d+', answer):
    raise ValueError(f"the answer to pointing is {answer!r}, expected column and row, such as '3 5'")
  made = Pair(task, prompts.prompt(task, question), answer, grid)
  if grid and made.point and max(made.point) >= grid:
    raise ValueError(f'the answer to pointing is {answer!r}, expected column and row from 0 to {grid - 1}, since the '
                     f'grid has {grid} by {grid} cells')
  return made


def parse_fields(fields: dict[str, Any]) -> Pair:
  """Return the pair that the fields of a JSON object describe.

  Raises:
    ValueError: a field is unknown, missing or of another type.
  """
  known = sorted({name for names in _FIELD_SETS for name in names} | {'grid'})
  for field, value in fields.items():
    if field not in known:
      raise ValueError(f'unknown field {field!r}, expected {known}.{did_you_mean(field, known)}')
    if field == 'grid':
      if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"'grid' is {value!r}, expected the number of cells across, at least 1")
    elif not isinstance(value, str) or not value.strip():
      raise ValueError(f'{field!r} is {value!r}, expected a text')
  optional = {'grid'} if 'point' in fields else set()
  if set(fields) - optional not in map(set, _FIELD_SETS):
    raise ValueError(f'it has {sorted(fields)}, expected one of {[list(names) for names in _FIELD_SETS]}')
  if 'prompt' in fields:
    return Pair('vqa', fields['prompt'].strip(), fields['answer'].strip())
  if 'question' in fields:
    return make_pair('vqa', fields['question'], fields['answer'])
  if 'point' in fields:
    return make_pair('point', fields['point'], fields['answer'], fields.get('grid', 0))
  if 'answer' in fields:
    return make_pair('match', fields['caption'], fields['answer'])
  return make_pair('caption', '', fields['caption'])
