"""Demonstrations and questions of the embedded simulator as arrays in memory.

They are made as data/tabletop/generate.py and data/tabletop_qa/generate.py make them, without datasets in between: a
GPU takes small images faster than a CPU decodes JPEG files.
"""
import functools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from array_training import episode_arrays, pixels, window_arrays

from rtjax.actions import ARM_7D
from rtjax.data.generation.item_store import ItemStore, split_ranges
from rtjax.data.image_text.pairs import Pair, make_pair
from rtjax.language import prompts
from rtjax.language.instructions import PromptEncoder
from rtjax.language.tokenizer import Tokenizer

_DATA = pathlib.Path(__file__).resolve().parents[1] / 'data'
sys.path[:0] = [str(_DATA / 'tabletop'), str(_DATA / 'tabletop_qa')]

import demonstrations  # noqa: E402  (on the path since above)
import examples  # noqa: E402
import questions  # noqa: E402
import scenes  # noqa: E402

Arrays = dict[str, np.ndarray]
Items = list[dict[str, Any]]


def load_episodes(folder: pathlib.Path, count: int, workers: int = 0) -> dict[str, Items]:
  """Return successful episodes of picking by split, recorded where missing.

  Each has 'images' uint8 [L, 96, 96, 3], 'actions', 'proprioception' float32 [L, 7], 'waypoints' [L, 3] and its
  'instruction'.
  """
  config = demonstrations.RecordingConfig(wrist=False, skills=('pick',))
  store, splits = ItemStore(folder / 'robots', demonstrations.EPISODES_PER_FILE), split_ranges(count)
  store.create({'episodes': count})
  store.fill(functools.partial(_record, config), splits, workers, 'episodes')
  return {name: [episode for episode in store.read(*span) if episode] for name, span in splits.items()}


def load_questions(folder: pathlib.Path, count: int, workers: int = 0) -> dict[str, Items]:
  """Return images with pairs by split, rendered where missing.

  Each has 'image' uint8 [96, 96, 3] and 'pairs'.
  """
  store, splits = ItemStore(folder / 'questions', examples.EXAMPLES_PER_FILE), split_ranges(count)
  store.create({'images': count})
  store.fill(functools.partial(_render, scenes.GenerationConfig()), splits, workers, 'images')
  return {name: list(store.read(*span)) for name, span in splits.items()}


def prompted_windows(episodes: Items, tokenizer: Tokenizer, prompt_length: int) -> Arrays:
  """Return `window_arrays`, with a prompt per sentence, 'prompt' int32 [n, L]."""
  rows = window_arrays(episodes)
  return rows | {'prompt': PromptEncoder(tokenizer, prompt_length)(rows['sentences'])}


def pair_arrays(items: Items, tokenizer: Tokenizer, prompt_length: int, answer_length: int) -> Arrays:
  """Return the images, and one row per pair, ordered by task.

  'image' is each pair's row in 'images'; the pairs of task k are the rows from 'first'[k] to 'first'[k + 1].
  """
  numbered: list[tuple[int, int, Pair]] = sorted(
      ((prompts.TASKS.index(pair.task), i, pair) for i, item in enumerate(items) for pair in item['pairs']),
      key=lambda row: row[0])
  tasks, images, pairs = zip(*numbered, strict=True)
  return {'images': np.stack([item['image'] for item in items]), 'image': np.array(images),
          'prompts': _encode(tokenizer, [pair.prompt for pair in pairs], prompt_length),
          'targets': _encode(tokenizer, [pair.target for pair in pairs], answer_length),
          'tasks': np.array(tasks, np.int32), 'points': np.array([pair.point or (-1, -1) for pair in pairs], np.int32),
          'grid': np.array([pair.grid for pair in pairs], np.int32),
          'first': np.searchsorted(tasks, np.arange(len(prompts.TASKS) + 1))}


def _record(config: demonstrations.RecordingConfig, first: int, end: int) -> list[dict[str, Any] | None]:
  return [episode_arrays(found, ARM_7D) if found['episode_metadata']['success'] else None
          for found in demonstrations.record(config, first, end)]


def _render(config: scenes.GenerationConfig, first: int, end: int) -> Items:
  return [{'image': pixels(found['image']), 'pairs': [_pair(**pair) for pair in found['pairs']]}
          for found in examples.examples(config, first, end)]


def _pair(kind: str, question: str, answer: str, type: str) -> Pair:
  return make_pair(kind, question, answer, questions.GRID if kind == 'point' else 0)


def _encode(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> np.ndarray:
  """Encode each different text once; int32 [n, length]."""
  different = {text: i for i, text in enumerate(dict.fromkeys(texts))}
  return tokenizer.encode(list(different), length)[[different[text] for text in texts]]
