"""What a policy that also answers texts says about held-out pictures: whether learning to act cost it its language."""
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

import rtjax
from rtjax.evaluation.language import vqa
from rtjax.language import prompts
from rtjax.training import checkpoint as checkpoints

_KINDS = ('vqa', 'match', 'point')  # captions count only word for word, which few are
_BATCH = 64


def judge(checkpoint: str, sources: Sequence[str]) -> dict[str, Any] | None:
  """How many of `val`'s questions are answered right, of its captions told from wrong ones, of its things pointed at.

  Args:
    checkpoint: as `rtjax.load_model` reads it.
    sources: pictures with texts, see rtjax.data.image_text.sources.

  Returns:
    'after': {kind: as `vqa.accuracy`}; 'before': the same of the checkpoint that its training started from, where that
    is still there, otherwise None, and 'origin' its path. None for a network without language.

  Raises:
    FileNotFoundError, ValueError: a source cannot be read, or has neither questions nor captions to judge.
  """
  model = rtjax.load_model(checkpoint)
  if not hasattr(model, 'generate'):
    return None
  origin = checkpoints.read_metadata(checkpoint).get('origin', {}).get('init_from') or None
  before = rtjax.load_model(origin) if origin and pathlib.Path(origin).exists() else None
  return {'after': accuracy(model, sources), 'before': accuracy(before, sources) if before else None, 'origin': origin}


def accuracy(model: Any, sources: Sequence[str]) -> dict[str, dict[str, Any]]:
  """See `judge`."""
  from rtjax.data.config import ImageTextConfig, KindWeights
  from rtjax.data.image_text import stream  # brings TensorFlow
  config = ImageTextConfig(kinds=KindWeights(caption=0.0))
  shapes = stream.Shapes(model.config.vision.image_size, model.config.prompt_length, model.config.answer_length)
  said, right, kinds = [], [], []
  for batch in stream.validation_batches(sources, config, model.vocabulary, shapes, batch_size=_BATCH):
    written = model.vocabulary.decode(model.generate(batch['images'], batch['prompts']))
    for row in np.flatnonzero(batch['kinds'] >= 0):
      said.append(written[row])
      right.append(batch['target_texts'][row])
      kinds.append(prompts.KINDS[batch['kinds'][row]])
  found = vqa.accuracy(said, right, kinds)
  return {kind: found[kind] for kind in _KINDS if kind in found}


def blind(sources: Sequence[str]) -> dict[str, dict[str, Any]]:
  """What can be had without looking: of each question its most frequent answer in `train`. See `vqa.blind`."""
  from rtjax.data.image_text.sources import open_source  # brings TensorFlow
  asked: dict[str, list[vqa.Asked]] = {'train': [], 'val': []}
  for split, pairs in asked.items():
    for opened in (open_source(name, split) for name in sources):
      for picture in opened.read(opened.chunks(opened.num_episodes)):
        pairs += [(pair.kind, pair.prompt, pair.target) for pair in picture.pairs if pair.kind in _KINDS]
  found = vqa.blind(asked['train'], asked['val'])['question']
  return {kind: found[kind] for kind in _KINDS if kind in found}
