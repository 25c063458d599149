"""Accuracy of answers about images, and of answers without the image."""
import collections
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from rtjax.evaluation.statistics import wilson_interval

_ARTICLES = {'a', 'an', 'the'}
_NUMBERS = {word: str(i) for i, word in enumerate(
    ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten'))} | {'none': '0'}


class Question(NamedTuple):
  """Question about an image and its answer; `task` is one of `prompts.TASKS`."""
  task: str
  question: str
  answer: str


def normalize(answer: str) -> str:
  """Normalize an answer for comparison, as VQA v2's evaluation does.

  Lower case; articles left out; number words up to ten as digits; punctuation as a space, but commas in numbers and
  apostrophes without one, and points in numbers kept. All apostrophes are removed in place of VQA's table of
  contractions, which makes the same answers equal.

  Source: vqaEval.py of GT-Vision-Lab/VQA; Antol et al. 2015, section 3.
  """
  text = re.sub(r"(?<=\d),(?=\d)|['\u2019]", '', answer.lower())
  text = re.sub(r'(?<!\d)\.|\.(?!\d)', ' ', text)
  words = re.sub(r'[^\w\s.]|_', ' ', text).split()
  return ' '.join(_NUMBERS.get(word, word) for word in words if word not in _ARTICLES)


def accuracy(predictions: Sequence[str], answers: Sequence[str], tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
  """Compute the share of predictions that equal their answers after `normalize`.

  It is of little use for captions, few of which match word for word.

  Returns:
    For each task, and for 'all': {'accuracy': float, 'interval': (low, high), 95 %, Wilson, 'correct': int,
    'count': int}.

  Raises:
    ValueError: the arguments are empty or have different lengths.
  """
  if not answers or not len(predictions) == len(answers) == len(tasks):
    raise ValueError(f'{len(predictions)} predictions, {len(answers)} answers and {len(tasks)} tasks, expected the '
                     'same number of each, and at least one.')
  correct = [normalize(p) == normalize(a) for p, a in zip(predictions, answers, strict=True)]
  figures = {}
  for task in [*dict.fromkeys(tasks), 'all']:
    selected = [c for c, t in zip(correct, tasks, strict=True) if task in ('all', t)]
    figures[task] = {'accuracy': sum(selected) / len(selected),
                     'interval': wilson_interval(sum(selected), len(selected)),
                     'correct': sum(selected), 'count': len(selected)}
  return figures


def blind_accuracy(train: Sequence[Question], test: Sequence[Question]) -> dict[str, dict[str, dict[str, Any]]]:
  """Compute the `accuracy` that is possible without the images.

  Args:
    train: examples in which answers are counted.
    test: questions to answer.

  Returns:
    'task': of the most frequent answer of the task; 'question': of the most frequent answer of the same question, or
    of the task for a question that is not in `train`.
  """
  by_task: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
  by_question: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
  for task, question, answer in train:
    by_task[task][answer] += 1
    by_question[task, question][answer] += 1

  def most_frequent(counter: collections.Counter[str]) -> str:
    return counter.most_common(1)[0][0] if counter else ''

  tasks, _, answers = zip(*test, strict=True)
  task_answers = [most_frequent(by_task[task]) for task in tasks]
  question_answers = [most_frequent(by_question[task, question]) or task_answers[i]
                      for i, (task, question, _) in enumerate(test)]
  return {'task': accuracy(task_answers, answers, tasks), 'question': accuracy(question_answers, answers, tasks)}
