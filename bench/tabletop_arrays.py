"""Demonstrations and questions of the embedded simulator as arrays: all that a device needs, in its memory at once.

Made as data/tabletop/generate.py and data/tabletop_qa/generate.py make them, without datasets in between: a GPU takes
small pictures faster than JPEG files can be decoded.
"""
import functools
import io
import pathlib
import sys
from typing import Any

import numpy as np
from PIL import Image

from rtjax.actions import ARM_7D
from rtjax.data.chunks import Chunks, spans
from rtjax.data.windows import next_changes
from rtjax.language import prompts
from rtjax.language.instructions import HASHED_NGRAMS, Prompts, hashed_ngrams
from rtjax.language.tokenizer import PAD, Tokenizer

_DATA = pathlib.Path(__file__).resolve().parents[1] / 'data'
sys.path[:0] = [str(_DATA / 'tabletop'), str(_DATA / 'tabletop_qa')]

import demonstrations  # noqa: E402  (on the path since above)
import examples  # noqa: E402
import scenes  # noqa: E402

Arrays = dict[str, np.ndarray]


def robots(folder: pathlib.Path, episodes: int, workers: int = 0) -> dict[str, list[dict[str, Any]]]:
  """Successful episodes of picking, 'train' and 'val', made where they are missing.

  Each has 'images' uint8 [L, 96, 96, 3], 'actions', 'proprioception' float32 [L, 7], 'waypoints' [L, 3] and its
  'instruction'.
  """
  recipe = demonstrations.Recipe(wrist=False, skills=('pick',))
  raw, parts = Chunks(folder / 'robots', demonstrations.CHUNK), spans(episodes)
  raw.claim({'episodes': episodes})
  raw.fill(functools.partial(_episodes, recipe), parts, workers, 'episodes')
  return {name: [episode for episode in raw.read(*span) if episode] for name, span in parts.items()}


def questions(folder: pathlib.Path, pictures: int, workers: int = 0) -> dict[str, list[dict[str, Any]]]:
  """Pictures with their pairs, 'train' and 'val': 'image' uint8 [96, 96, 3], and 'pairs' of (kind, prompt, answer)."""
  raw, parts = Chunks(folder / 'questions', examples.CHUNK), spans(pictures)
  raw.claim({'pictures': pictures})
  raw.fill(functools.partial(_pictures, scenes.Recipe()), parts, workers, 'pictures')
  return {name: list(raw.read(*span)) for name, span in parts.items()}


def windows(episodes: list[dict[str, Any]], tokenizer: Tokenizer, prompt_length: int) -> Arrays:
  """One row for each step: what RT-1 and RT-2 look at, the latter's prompts as 'prompts' and the former's vectors as
  'embeddings', of the sentence whose number is 'sentence'."""
  sentences = sorted({episode['instruction'] for episode in episodes})
  number = {text: i for i, text in enumerate(sentences)}
  rows = {name: np.concatenate([episode[name] for episode in episodes])
          for name in ('images', 'actions', 'proprioception', 'waypoints')}
  return rows | {
      'sentence': np.repeat([number[e['instruction']] for e in episodes], [len(e['actions']) for e in episodes]),
      'prompts': Prompts(tokenizer, prompt_length)(sentences),
      'embeddings': np.stack([hashed_ngrams(text) for text in sentences])}


def texts(pictures: list[dict[str, Any]], tokenizer: Tokenizer, prompt_length: int, answer_length: int) -> Arrays:
  """'images', and one row for each pair, ordered by kind: 'picture', 'prompts', 'targets', 'kinds', 'points'; of each
  kind k the rows from 'first'[k] to 'first'[k + 1]."""
  pointed = prompts.KINDS.index('point')
  pairs = [(prompts.KINDS.index(kind), i, asked, answer)
           for i, picture in enumerate(pictures) for kind, asked, answer in picture['pairs']]
  kinds, numbers, asked, answers = zip(*sorted(pairs, key=lambda pair: pair[0]), strict=True)
  return {'images': np.stack([picture['image'] for picture in pictures]), 'picture': np.array(numbers),
          'prompts': _encode(tokenizer, asked, prompt_length), 'targets': _encode(tokenizer, answers, answer_length),
          'kinds': np.array(kinds, np.int32),
          'points': np.array([answer.split() if kind == pointed else (-1, -1)
                              for kind, answer in zip(kinds, answers, strict=True)]).astype(np.int32),
          'first': np.searchsorted(kinds, np.arange(len(prompts.KINDS) + 1))}


def statistics(episodes: list[dict[str, Any]]) -> dict[str, Any]:
  """As `rtjax.data.statistics` has them, in so far as a network or an evaluation asks for them."""
  actions, states = (np.concatenate([e[name] for e in episodes]) for name in ('actions', 'proprioception'))
  vectors = np.stack([hashed_ngrams(e['instruction']) for e in episodes])
  lengths = np.array([len(e['actions']) for e in episodes], np.float64)
  mean = np.average(vectors, 0, lengths)
  embedding = {'mean': mean.tolist(), 'std': np.sqrt(np.average((vectors - mean) ** 2, 0, lengths)).tolist()}
  return {'tabletop': {
      'name': 'tabletop', 'split': 'train', 'embedding_id': HASHED_NGRAMS, 'renderer': 'rays', 'picture': [96, 96],
      'episodes': len(episodes), 'steps': len(actions), 'embedding': embedding,
      'action': {'names': list(ARM_7D.number_names), **_moments(actions)}, 'proprioception': _moments(states)}}


def _moments(values: np.ndarray) -> dict[str, list[float]]:
  return {'mean': values.mean(0, np.float64).tolist(), 'std': values.std(0, np.float64).tolist()}


def _episodes(recipe: Any, first: int, end: int) -> list[dict[str, Any] | None]:
  return [_episode(found) if found['episode_metadata']['success'] else None
          for found in demonstrations.record(recipe, first, end)]


def _episode(found: dict[str, Any]) -> dict[str, Any]:
  steps = found['steps']
  actions, states = (np.stack(values).astype(np.float32) for values in (
      [step['action'] for step in steps], [step['observation']['state'] for step in steps]))
  reached = next_changes(ARM_7D.gripper_commands(actions))
  return {'images': np.stack([_pixels(step['observation']['image']) for step in steps]), 'actions': actions,
          'proprioception': states, 'waypoints': states[reached, :3], 'instruction': steps[0]['language_instruction']}


def _pictures(recipe: Any, first: int, end: int) -> list[dict[str, Any]]:
  return [{'image': _pixels(found['image']),
           'pairs': [(p['kind'], prompts.prompt(p['kind'], p['question']), p['answer']) for p in found['pairs']]}
          for found in examples.examples(recipe, first, end)]


def _pixels(jpeg: bytes) -> np.ndarray:
  return np.asarray(Image.open(io.BytesIO(jpeg)))


def _encode(tokenizer: Tokenizer, sentences: tuple[str, ...], length: int) -> np.ndarray:
  """int32 [n, length]; each different sentence is encoded once."""
  different = {text: i for i, text in enumerate(dict.fromkeys(sentences))}
  ids = np.full((len(different), length), PAD, np.int32)
  ids[:] = tokenizer.encode(list(different), length)
  return ids[[different[text] for text in sentences]]
