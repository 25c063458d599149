"""Pictures with their questions, in chunks: what a process writes at a time, and over which answers are balanced."""
import collections
import io
import itertools
import statistics
from collections.abc import Iterator
from typing import Any

import captions
import numpy as np
import questions
from PIL import Image
from scenes import Camera, Recipe, View

CHUNK = 50
"""Pictures per file of raw ones, the unit of work that is lost when interrupted."""

_QUESTIONS = 5  # about a picture, at most, of different types
_POINTS = 4  # the scenes themselves balance the answers
_CAPTIONS = 2
_JPEG = {'format': 'JPEG', 'quality': 95, 'subsampling': 0}  # as data/tabletop's


class Asker:
  """Chooses what is asked, so that of each type all answers are about as frequent."""

  def __init__(self) -> None:
    self._given: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)

  def __call__(self, view: View, draw: np.random.Generator) -> Iterator[dict[str, str]]:
    """The pairs about a view: {'kind', 'type', 'question', 'answer'}; a caption has no question, pointing
    has the thing."""
    chosen = (_pair('vqa', name, *asked) for name in _shuffled(list(questions.TYPES), draw)
              if (asked := self._choose(name, list(questions.TYPES[name](view)), draw)))
    yield from itertools.islice(chosen, _QUESTIONS)
    for asked in _shuffled(list(questions.places(view)), draw)[:_POINTS]:
      yield _pair('point', 'point', *asked)
    for text in itertools.islice(captions.captions(view, draw), _CAPTIONS):
      yield _pair('caption', 'caption', '', text)
    for text, answer in zip(captions.matches(view, draw) or (), ('yes', 'no'), strict=False):
      yield _pair('match', 'match', text, answer)

  def _choose(self, name: str, fair: list[questions.Asked], draw: np.random.Generator) -> questions.Asked | None:
    """A question whose answer was given least; none if even that one was given more often than others on average."""
    given = self._given[name]
    best = min(_shuffled(fair, draw), key=lambda asked: given[asked[1]], default=None)
    if best is None:
      return None
    others = [*given.values(), *[0] * (2 - len(given))]
    if given[best[1]] > statistics.mean(others) + 0.5:
      return None
    given[best[1]] += 1
    return best


def _shuffled(items: list[Any], draw: np.random.Generator) -> list[Any]:
  return [items[i] for i in draw.permutation(len(items))]


def _pair(kind: str, name: str, question: str, answer: str) -> dict[str, str]:
  return {'kind': kind, 'type': name, 'question': question, 'answer': answer}


def examples(recipe: Recipe, first: int, end: int) -> list[dict[str, Any]]:
  """Pictures [first, end): {'number', 'image' (JPEG), 'objects', 'pairs'}; each depends on no others."""
  camera, ask = Camera(recipe), Asker()
  try:
    return [{'number': number, 'image': _jpeg(picture), 'objects': sorted(view.present), 'pairs': list(ask(view, draw))}
            for number in range(first, end) for picture, view, draw in [camera.take(number)]]
  finally:
    camera.close()


def _jpeg(picture: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(picture).save(buffer, **_JPEG)
  return buffer.getvalue()
