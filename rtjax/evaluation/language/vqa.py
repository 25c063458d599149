"""How many answers about pictures are right."""
import collections
import re
from collections.abc import Sequence
from typing import Any

from rtjax.evaluation.statistics import wilson

_ARTICLES = {'a', 'an', 'the'}
_NUMBERS = {word: str(i) for i, word in enumerate(
    ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten'))} | {'none': '0'}


def normalized(answer: str) -> str:
  """An answer as VQA v2's evaluation compares it (vqaEval.py of GT-Vision-Lab/VQA; Antol et al. 2015, section 3).

  Lower case; articles left out; number words up to ten as digits; punctuation as a space, but commas in numbers and
  apostrophes without one, and points in numbers kept. In place of its table of contractions all apostrophes go, which
  makes the same answers equal.
  """
  text = re.sub(r"(?<=\d),(?=\d)|['\u2019]", '', answer.lower())
  text = re.sub(r'(?<!\d)\.|\.(?!\d)', ' ', text)
  words = re.sub(r'[^\w\s.]|_', ' ', text).split()
  return ' '.join(_NUMBERS.get(word, word) for word in words if word not in _ARTICLES)


def accuracy(predictions: Sequence[str], answers: Sequence[str], kinds: Sequence[str]) -> dict[str, dict[str, Any]]:
  """The share of predictions that equal their answers when `normalized`, of each kind and of 'all'.

  Captions count only word for word, which few are: look at the other kinds.

  Returns:
    {kind: {'accuracy': float, 'interval': Wilson's at 95 % (low, high), 'correct': int, 'count': int}}

  Raises:
    ValueError: there is nothing, or the three are not equally many.
  """
  if not answers or not len(predictions) == len(answers) == len(kinds):
    raise ValueError(f'{len(predictions)} predictions, {len(answers)} answers and {len(kinds)} kinds, expected as many '
                     'of each, and at least one.')
  right = [normalized(p) == normalized(a) for p, a in zip(predictions, answers, strict=True)]
  figures = {}
  for kind in [*dict.fromkeys(kinds), 'all']:
    hits = [hit for hit, k in zip(right, kinds, strict=True) if kind in ('all', k)]
    figures[kind] = {'accuracy': sum(hits) / len(hits), 'interval': wilson(sum(hits), len(hits)), 'correct': sum(hits),
                     'count': len(hits)}
  return figures


Asked = tuple[str, str, str]
"""Kind, question, answer."""


def blind(seen: Sequence[Asked], asked: Sequence[Asked]) -> dict[str, dict[str, dict[str, Any]]]:
  """What can be had without looking at the picture: the `accuracy` of always giving the most frequent answer.

  Args:
    seen: examples in which answers are counted.
    asked: those to answer.

  Returns:
    'kind': with the most frequent answer of the kind; 'question': with that of the very question, or the kind's where
    the question was not seen.
  """
  by_kind: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
  by_question: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
  for kind, question, answer in seen:
    by_kind[kind][answer] += 1
    by_question[kind, question][answer] += 1

  def most(counter: collections.Counter[str]) -> str:
    return counter.most_common(1)[0][0] if counter else ''

  kinds, _, answers = zip(*asked, strict=True)
  of_kind = [most(by_kind[kind]) for kind in kinds]
  of_question = [most(by_question[kind, question]) or of_kind[i] for i, (kind, question, _) in enumerate(asked)]
  return {'kind': accuracy(of_kind, answers, kinds), 'question': accuracy(of_question, answers, kinds)}
