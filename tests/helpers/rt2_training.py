"""A small RT-2, questions about colours, and runs of a few seconds."""
import dataclasses
import json
import pathlib
from typing import Any

from PIL import Image

from helpers import tiny_rt2, tiny_training
from rtjax.data.augment import AugmentConfig
from rtjax.models import RT2Config
from rtjax.training.config import (
    CheckpointConfig,
    LoggingConfig,
    TextConfig,
    TrainConfig,
    ValidationConfig,
    VisionLanguageInit,
)
from rtjax.training.optimizer import OptimizerConfig

COLOURS = ('red', 'green', 'blue', 'yellow')


def with_text_config(model: RT2Config, **changes: Any) -> RT2Config:
  """The model with fields of its T5 replaced."""
  text = dataclasses.replace(model.backbone.text, **changes)
  return dataclasses.replace(model, backbone=dataclasses.replace(model.backbone, text=text))


MODEL = with_text_config(dataclasses.replace(
    tiny_rt2.TINY, action_spec=tiny_training.SPEC, action_ids=(), prompt_length=20, answer_length=6),
    vocab_size=1536, encoder_layers=1, decoder_layers=1)


def write_questions(folder: pathlib.Path) -> str:
  """Questions about the colour of images, and one caption."""
  for colour in COLOURS:
    Image.new('RGB', (16, 16), colour).save(folder / f'{colour}.png')
  questions = [{'image': f'{colour}.png', 'question': 'what color is it?', 'answer': colour} for colour in COLOURS]
  caption = {'image': 'red.png', 'caption': 'it is red'}
  for split, lines in (('train', 4 * questions), ('val', [*questions, caption])):
    (folder / f'{split}.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  return str(folder)


def config(output: Any, questions: str, *, weights: Any = '', text: dict[str, Any] | None = None,
           init: dict[str, Any] | None = None, **changes: Any) -> TrainConfig:
  """A run; `weights` is where it starts from."""
  given = {'output': str(output), 'steps': 4, 'batch_size': 8, 'logging': LoggingConfig(every=1, tensorboard=False),
           'checkpoints': CheckpointConfig(every=2), 'validation': ValidationConfig(every=2), 'model': MODEL,
           'text': TextConfig(**{'data': (questions,), 'batch_size': 4} | (text or {})),
           'init': VisionLanguageInit(weights=str(weights), **(init or {})), 'augment': AugmentConfig(crop=False),
           'optimizer': OptimizerConfig(learning_rate=1e-2, warmup_steps=1)}
  return TrainConfig(**given | changes)
