"""Accuracy of a model's answers about held-out images."""
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

import rtjax
from rtjax.checkpoints import PolicyMetadata
from rtjax.evaluation.language import vqa
from rtjax.language import prompts
from rtjax.models import PolicyModel

_TASKS = ('vqa', 'match', 'point')  # not 'caption': few captions match word for word
_BATCH_SIZE = 64


def evaluate_vqa(model: PolicyModel, metadata: PolicyMetadata, sources: Sequence[str]) -> dict[str, Any]:
  """Evaluate a model on the split `val`, after and before its training.

  Args:
    model: with `config.generates_text`.
    metadata: of its checkpoint.
    sources: image-text sources, see rtjax.data.image_text.sources.

  Returns:
    'after': {task: see `vqa.accuracy`}; 'init_from': path of the checkpoint that training started from, or None;
    'before': as 'after', of that checkpoint, or None if it does not exist any more.

  Raises:
    FileNotFoundError, ValueError: a source cannot be read, or has neither questions nor captions.
  """
  init_from = metadata.lineage.get('weights') or None
  before = rtjax.load_model(init_from) if init_from and pathlib.Path(init_from).exists() else None
  return {'after': accuracy(model, sources), 'before': accuracy(before, sources) if before else None,
          'init_from': init_from}


def accuracy(model: PolicyModel, sources: Sequence[str]) -> dict[str, dict[str, Any]]:
  """Compute the accuracy of each task on the split `val`.

  Arguments and errors are those of `evaluate_vqa`.
  """
  from rtjax.data.config import ImageTextConfig, TaskWeights
  from rtjax.data.image_text import stream  # imports TensorFlow
  if model.tokenizer is None:
    raise ValueError('the model has no tokenizer: evaluate a checkpoint that was trained with one.')
  config = ImageTextConfig(tasks=TaskWeights(caption=0.0))
  c = model.config
  shapes = stream.TextShapes(c.image_size, c.prompt_length, c.answer_length, c.prompt_format)
  predictions, answers, tasks = [], [], []
  for batch in stream.validation_batches(sources, config, model.tokenizer, shapes, batch_size=_BATCH_SIZE):
    generated = model.tokenizer.decode(model.generate(batch['images'], batch['prompts']))
    for row in np.flatnonzero(batch['tasks'] >= 0):
      predictions.append(generated[row])
      answers.append(batch['target_texts'][row])
      tasks.append(prompts.TASKS[batch['tasks'][row]])
  return _select(vqa.accuracy(predictions, answers, tasks))


def blind_accuracy(sources: Sequence[str]) -> dict[str, dict[str, Any]]:
  """Compute the accuracy without images, on the split `val`.

  Each question gets its most frequent answer in the split `train`.
  """
  from rtjax.data.image_text.sources import open_source  # imports TensorFlow
  questions: dict[str, list[vqa.Question]] = {'train': [], 'val': []}
  for split, collected in questions.items():
    for source in (open_source(name, split) for name in sources):
      for image in source.read_all():
        collected += [vqa.Question(pair.task, pair.prompt, pair.target) for pair in image.pairs if pair.task in _TASKS]
  return _select(vqa.blind_accuracy(questions['train'], questions['val'])['question'])


def _select(figures: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
  return {task: figures[task] for task in _TASKS if task in figures}
