"""Images with questions and answers, balanced within each file."""
import collections
import itertools
import statistics
from collections.abc import Iterator
from typing import Any

import captions
import numpy as np
import questions
from scenes import GenerationConfig, SceneSampler, SceneView

from rtjax.data.generation.recording import encode_jpeg

EXAMPLES_PER_FILE = 50
"""Raw examples per file, the unit of resuming; answers are balanced within a file."""

TEXTS = 2
"""Version of the texts; it rises when equal scenes get other ones."""

TASKS = ('caption', 'vqa', 'match', 'point')
"""Tasks of the pairs."""

_QUESTIONS = 5  # per image at most, of different types
_POINTS, _DESCRIPTIONS = 4, 3  # their answers are balanced by the scenes
_CAPTIONS = 2


class QuestionSampler:
  """Sampler of questions with balanced answers in each type."""

  def __init__(self) -> None:
    self._counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)

  def __call__(self, view: SceneView, rng: np.random.Generator) -> Iterator[dict[str, str]]:
    """Yield the pairs of a scene, {'kind', 'type', 'question', 'answer'}.

    The question of a caption is empty; for pointing it is a name or description of
    the object.
    """
    chosen = (_pair('vqa', name, *question) for name in _shuffle(list(questions.TYPES), rng)
              if (question := self._choose(name, list(questions.TYPES[name](view)), rng)))
    yield from itertools.islice(chosen, _QUESTIONS)
    for question in _shuffle(list(questions.pointing(view)), rng)[:_POINTS]:
      yield _pair('point', 'point', *question)
    for question in _shuffle(list(questions.descriptions(view)), rng)[:_DESCRIPTIONS]:
      yield _pair('point', 'description', *question)
    for text in itertools.islice(captions.captions(view, rng), _CAPTIONS):
      yield _pair('caption', 'caption', '', text)
    for text, answer in zip(captions.matches(view, rng) or (), ('yes', 'no'), strict=False):
      yield _pair('match', 'match', text, answer)

  def _choose(self, name: str, candidates: list[questions.QuestionAnswer], rng: np.random.Generator
              ) -> questions.QuestionAnswer | None:
    """Choose the question with the rarest answer.

    Returns None if even that answer is more frequent than the others on average.
    """
    counts = self._counts[name]
    best = min(_shuffle(candidates, rng), key=lambda question: counts[question[1]], default=None)
    if best is None:
      return None
    others = [*counts.values(), *[0] * (2 - len(counts))]
    if counts[best[1]] > statistics.mean(others) + 0.5:
      return None
    counts[best[1]] += 1
    return best


def _shuffle(items: list[Any], rng: np.random.Generator) -> list[Any]:
  return [items[i] for i in rng.permutation(len(items))]


def _pair(task: str, question_type: str, question: str, answer: str) -> dict[str, str]:
  """Create a pair with the feature names of the dataset."""
  return {'kind': task, 'type': question_type, 'question': question, 'answer': answer}


def examples(config: GenerationConfig, first: int, end: int) -> list[dict[str, Any]]:
  """Generate examples [first, end) of one file.

  Returns:
    {'number', 'image' (JPEG), 'objects', 'pairs'} for each image.
  """
  sampler, sample_questions = SceneSampler(config), QuestionSampler()
  try:
    return [{'number': number, 'image': encode_jpeg(image), 'objects': sorted(view.present),
             'pairs': list(sample_questions(view, rng))}
            for number in range(first, end) for image, view, rng in [sampler.sample(number)]]
  finally:
    sampler.close()
