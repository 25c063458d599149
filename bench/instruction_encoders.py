"""Meaning in instruction encoders, without a policy: nearest known sentences, and time.

  python bench/instruction_encoders.py [--encoders hashed-ngrams/1 all-minilm-l6/2]

The known sentences are all instructions of training data for one object ("put the red can into the bowl"). Each line
of JSON has, for one encoder, the shares of new sentences whose nearest known one agrees, with Wilson's interval (95 %):

    phrasing         held-out phrasings: the same skill, object and container
    skill            the same sentences: the same skill
    kind_synonym     a synonym for the kind of the object: the same kind
    colour_synonym   a synonym for its colour: the same colour

`ms_per_sentence` is the processor time of one sentence on one thread.
"""
import json
import os
import time
from collections.abc import Callable, Sequence

os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # before NumPy: the time of one thread

import numpy as np
import tyro
from machine import describe

from rtjax.envs.tabletop import language, splits, synonyms
from rtjax.envs.tabletop.tasks import Task
from rtjax.evaluation.statistics import wilson_interval
from rtjax.language.instructions import NAMED, InstructionEncoder, open_encoder

_SKILLS = ('pick', 'upright', 'knock', 'put_into', 'take_out')
Sentence = tuple[str, Task]


def sentences(texts: Callable[[Task], Sequence[str]]) -> list[Sentence]:
  """Return the texts of each task of one object, with the task."""
  return [(text, task) for skill in _SKILLS for task in splits.tasks(skill) for text in texts(task)]


def renamed(task: Task, words: dict[str, tuple[str, ...]], kind: bool) -> list[str]:
  """Return instructions with a synonym for the kind, or for the colour."""
  target = task.target
  assert target is not None
  names = [f'{target.colour} {word}' if kind else f'{word} {target.kind}'
           for word in words[target.kind if kind else target.colour]]
  template = language.templates(task.skill)[0]
  return [template.format(x=name, y=task.reference) for name in names]


def nearest(encoder: InstructionEncoder, known: list[Sentence], new: list[Sentence]) -> list[tuple[Task, Task]]:
  """Return the tasks of each new sentence and its nearest known one.

  Nearest is by cosine: all encoders give unit norms.
  """
  vectors, others = (encoder([text for text, _ in part]) for part in (known, new))
  return [(known[index][1], task) for index, (_, task) in zip(np.argmax(others @ vectors.T, 1), new, strict=True)]


def share(hits: list[bool]) -> list[float]:
  """Return the share of hits and its interval."""
  return [round(value, 3) for value in (np.mean(hits), *wilson_interval(sum(hits), len(hits)))]


def milliseconds(encoder: InstructionEncoder, texts: Sequence[str]) -> float:
  """Return the median processor time of a sentence."""
  times = []
  for text in texts:
    start = time.process_time()
    encoder([text])
    times.append(time.process_time() - start)
  return round(1e3 * float(np.median(times)), 2)


def main(encoders: tuple[str, ...] = tuple(NAMED), most: int = 300) -> None:
  """Print a line for each encoder.

  Args:
    encoders: ids, folders or tables.
    most: new sentences of a kind, drawn with seed 0.
  """
  rng = np.random.default_rng(0)

  def some(texts: Callable[[Task], Sequence[str]]) -> list[Sentence]:
    found = sentences(texts)
    return [found[i] for i in rng.permutation(len(found))[:most]]

  known = sentences(language.instructions)
  parts = [some(lambda task: language.instructions(task, seen=False)),
           some(lambda task: renamed(task, synonyms.KIND_SYNONYMS, True)),
           some(lambda task: renamed(task, synonyms.COLOUR_SYNONYMS, False))]
  for name in encoders:
    encoder = open_encoder(name)
    found = nearest(encoder, known, [sentence for part in parts for sentence in part])
    phrasings, kinds, colours = np.split(np.array(found, object), np.cumsum([len(part) for part in parts])[:-1])
    print(json.dumps({
        'encoder': encoder.id, 'known': len(known), 'new': [len(part) for part in parts],
        'phrasing': share([a == b for a, b in phrasings]), 'skill': share([a.skill == b.skill for a, b in phrasings]),
        'kind_synonym': share([a.target.kind == b.target.kind for a, b in kinds]),
        'colour_synonym': share([a.target.colour == b.target.colour for a, b in colours]),
        'ms_per_sentence': milliseconds(encoder, [text for text, _ in known[::max(1, len(known) // 50)]]),
        **describe()}), flush=True)


if __name__ == '__main__':
  tyro.cli(main)
