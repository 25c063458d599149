"""Demonstrations and questions of the embedded simulator as arrays in memory.

They are made as data/tabletop/generate.py and data/tabletop_qa/generate.py make them, without datasets in between: a
GPU takes small images faster than a CPU decodes JPEG files.
"""
import functools
import io
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from rtjax.actions import ARM_7D
from rtjax.data.image_text.pairs import Pair, make_pair
from rtjax.data.item_store import ItemStore, split_ranges
from rtjax.data.windows import next_changes
from rtjax.language import prompts
from rtjax.language.instructions import HASHED_NGRAMS, PromptEncoder, hashed_ngrams
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


def window_arrays(episodes: Items, tokenizer: Tokenizer, prompt_length: int) -> Arrays:
  """Return one row per step, and one row per sentence.

  'sentence' is each step's row in 'instruction', float32 [n, 512], and in 'prompt', int32 [n, L].
  """
  sentences = sorted({episode['instruction'] for episode in episodes})
  number = {text: i for i, text in enumerate(sentences)}
  rows = {name: np.concatenate([episode[name] for episode in episodes])
          for name in ('images', 'actions', 'proprioception', 'waypoints')}
  return rows | {
      'sentence': np.repeat([number[e['instruction']] for e in episodes], [len(e['actions']) for e in episodes]),
      'prompt': PromptEncoder(tokenizer, prompt_length)(sentences),
      'instruction': np.stack([hashed_ngrams(text) for text in sentences])}


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


def statistics(episodes: Items) -> dict[str, Any]:
  """Return the part of `rtjax.data.statistics` that models and evaluation use."""
  lengths = np.array([len(e['actions']) for e in episodes])
  values = {name: np.concatenate([e[name] for e in episodes]) for name in ('actions', 'proprioception')}
  embeddings = np.repeat(np.stack([hashed_ngrams(e['instruction']) for e in episodes]), lengths, 0)
  return {'tabletop': {
      'name': 'tabletop', 'split': 'train', 'embedding_id': HASHED_NGRAMS, 'renderer': 'rays', 'image_size': [96, 96],
      'episodes': len(episodes), 'steps': int(lengths.sum()), 'instruction': _moments(embeddings),
      'action': {'names': list(ARM_7D.dimension_names), **_moments(values['actions'])},
      'proprioception': _moments(values['proprioception'])}}


def _moments(values: np.ndarray) -> dict[str, list[float]]:
  return {'mean': values.mean(0, np.float64).tolist(), 'std': values.std(0, np.float64).tolist()}


def _record(config: demonstrations.RecordingConfig, first: int, end: int) -> list[dict[str, Any] | None]:
  return [_episode(found) if found['episode_metadata']['success'] else None
          for found in demonstrations.record(config, first, end)]


def _episode(found: dict[str, Any]) -> dict[str, Any]:
  steps = found['steps']
  actions, states = (np.stack(values).astype(np.float32) for values in (
      [step['action'] for step in steps], [step['observation']['state'] for step in steps]))
  changes = next_changes(ARM_7D.gripper_commands(actions))
  return {'images': np.stack([_pixels(step['observation']['image']) for step in steps]), 'actions': actions,
          'proprioception': states, 'waypoints': states[changes, :3], 'instruction': steps[0]['language_instruction']}


def _render(config: scenes.GenerationConfig, first: int, end: int) -> Items:
  return [{'image': _pixels(found['image']), 'pairs': [_pair(**pair) for pair in found['pairs']]}
          for found in examples.examples(config, first, end)]


def _pair(kind: str, question: str, answer: str, type: str) -> Pair:
  return make_pair(kind, question, answer, questions.GRID if kind == 'point' else 0)


def _pixels(jpeg: bytes) -> np.ndarray:
  return np.asarray(Image.open(io.BytesIO(jpeg)))


def _encode(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> np.ndarray:
  """Encode each different text once; int32 [n, length]."""
  different = {text: i for i, text in enumerate(dict.fromkeys(texts))}
  return tokenizer.encode(list(different), length)[[different[text] for text in texts]]
