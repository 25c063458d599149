"""Tokenizer, action codec, backbone weights and lineage of RT-2's runs."""
import dataclasses
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp

from rtjax import checkpoints, pretrained
from rtjax.models import PolicyConfig, PolicyModel, parameters
from rtjax.models.backbones.t5 import T5Config
from rtjax.models.backbones.vision_language import VisionLanguageConfig
from rtjax.models.backbones.vit import resize_positions
from rtjax.training import initialize
from rtjax.training.config import TrainConfig

if TYPE_CHECKING:
  from rtjax.language.tokenizer import Tokenizer


BACKBONE_PARTS = {'backbone': 'backbone/', 'vision': 'backbone/vision/', 'text': 'backbone/text/'}
"""Settings of `init` that name a Hugging Face folder, and the variables that it fills."""

_UNUSED_ROWS = 128
"""Most rows of a published table of embeddings behind the last token.

T5's 32,000 tokens have 32,128, with 100 that its spiece.model leaves out; PaliGemma's 257,153 have 257,216.
"""

# Fields of a configuration that change the computation and hardly a shape.
_UNSEEN = 'activation', 'epsilon', 'max_distance', 'class_token', 'patch'


def with_backbone(config: TrainConfig, *, weights: bool = True) -> PolicyConfig:
  """Return the model's configuration with the backbone of `init.backbone`.

  Or, with `init.vision`, with the way in which its images are resized. Both are those of the run's own checkpoints,
  where there are some.

  Args:
    weights: whether the folder must hold its weights too, not config.json alone.

  Raises:
    FileNotFoundError, ValueError: as `load_huggingface`; or the folder holds a part of a backbone alone.
  """
  model: Any = config.model
  folder = config.init.backbone or config.init.vision
  if not folder:
    return model
  from rtjax.pretrained import huggingface
  if checkpoints.is_checkpoint(config.output):
    stored: Any = checkpoints.model_config(config.output, checkpoints.read_json(config.output))
    found = stored.backbone if config.init.backbone else stored.backbone.vision
  else:
    found = huggingface.open_folder(folder)[0].config if weights else huggingface.read_architecture(folder)
  if config.init.backbone:
    return dataclasses.replace(model, backbone=_whole(found, model, folder))
  vision = dataclasses.replace(model.backbone.vision, interpolation=getattr(
      found, 'interpolation', model.backbone.vision.interpolation))
  return dataclasses.replace(model, backbone=dataclasses.replace(model.backbone, vision=vision))


def _whole(found: Any, model: Any, folder: str) -> Any:
  """Return the configuration of a backbone of the model's kind."""
  if type(found) is not type(model.backbone):
    held, expected = (type(c).__name__.removesuffix('Config') for c in (found, model.backbone))
    part = 'text' if isinstance(found, T5Config) else 'vision'
    advice = 'Use the preset of its family' if isinstance(found, VisionLanguageConfig) else f'Give it as --init.{part}'
    raise ValueError(f'--init.backbone {folder} holds a {held}, the model is on {expected}. {advice}.')
  return found


def open_tokenizer(config: TrainConfig) -> 'Tokenizer':
  """Return the tokenizer of a run.

  It is that of the run's own checkpoints, else of `init.tokenizer`, `init.weights`, `init.backbone` or `init.text`,
  else the package's.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is another than that of the weights, whose embeddings would belong to other tokens.
  """
  if own := _tokenizer_of(_own(config)):
    return own
  found = _given_tokenizer(config.init)
  for part in ('backbone', 'text'):
    if folder := getattr(config.init, part):
      _check_embeddings(found, part, folder, config.model.vocab_size)
  return found


def _given_tokenizer(init: Any) -> 'Tokenizer':
  from rtjax.language import tokenizer  # needs sentencepiece
  theirs = _tokenizer_of(_earlier(init))
  if not init.tokenizer and theirs:
    return theirs
  source = 'backbone' if init.backbone else 'text'
  path = init.tokenizer or init.backbone or init.text
  if path and not init.tokenizer and not tokenizer.find(path).is_file():
    raise FileNotFoundError(f'--init.{source} {path} holds no {", ".join(tokenizer.FILES)}, which its embeddings '
                            'depend on. Give the file with --init.tokenizer.')
  found = tokenizer.Tokenizer.load(path) if path else tokenizer.Tokenizer()
  if theirs and theirs.id != found.id:
    raise ValueError(f'--init.weights {init.weights} was trained with the tokenizer {theirs.id!r}, --init.tokenizer is '
                     f'{found.id!r}: the same ids would mean other tokens. Leave --init.tokenizer out.')
  return found


def _check_embeddings(found: 'Tokenizer', part: str, folder: str, vocab_size: int) -> None:
  """Refuse a tokenizer that published embeddings do not belong to."""
  from rtjax.language import tokenizer
  from rtjax.pretrained import huggingface
  rows = getattr(huggingface.read_architecture(folder), 'vocab_size', None)  # an image encoder has none
  if rows is None or (part == 'text' and rows != vocab_size):  # this table is not loaded
    return
  if not 0 <= rows - found.used_size <= _UNUSED_ROWS:
    raise ValueError(f'{found} has {found.used_size} tokens, and by its config.json --init.{part} {folder} has '
                     f'embeddings for {rows}, of which at most {_UNUSED_ROWS} stand for none. Use the tokenizer of '
                     'these weights.')
  file = tokenizer.find(folder)
  if file.is_file() and str(file) != found.source and not found.agrees(tokenizer.Tokenizer.load(file)):
    raise ValueError(f'{found} has other tokens than {file}, which the embeddings of --init.{part} belong to: the same '
                     'ids would mean other tokens. Leave --init.tokenizer out.')


def with_codec(config: TrainConfig, data: Any) -> PolicyConfig:
  """Return the model's configuration with an action codec, if it uses one.

  It is that of the run's own checkpoints, else of `init.weights`, else fitted on the training data; without any data,
  there is none.

  Args:
    data: rtjax.data, or another object with its functions.

  Raises:
    FileNotFoundError, ValueError: the data cannot be read.
  """
  stored = (config.output, _own(config)), (config.init.weights, _earlier(config.init))
  known = [codec for path, json in stored if json and (codec := checkpoints.model_config(path, json).action_codec)]
  if not config.data and not known:
    return config.model
  model = config.model
  return model.with_codec(lambda: data.action_chunks(config.data, config.pipeline, model.action_spec, model.horizon),
                          known)


def describe(config: TrainConfig) -> dict[str, Any]:
  """Return the weights and the earlier run that a run started from.

  Keys: 'weights', 'backbone', 'vision', 'text' (paths, where given), and of an earlier run 'step', 'metrics',
  'lineage', 'data', 'text_data', 'steps', 'batch_size'.
  """
  parts = {name: path for name in ('weights', *BACKBONE_PARTS) if (path := getattr(config.init, name))}
  before = _earlier(config.init)
  if 'train' not in before:
    return parts
  train = before['train']
  return parts | {
      'step': before['step'], 'metrics': before.get('metrics'), 'lineage': before.get('lineage'),
      'data': train['data'], 'text_data': train['text']['data'] if train['text'] else [], 'steps': train['steps'],
      'batch_size': train['batch_size']}


def _own(config: TrainConfig) -> dict[str, Any]:
  """Return the JSON of the run's own checkpoint, if any."""
  return checkpoints.read_json(config.output) if checkpoints.is_checkpoint(config.output) else {}


def _earlier(init: Any) -> dict[str, Any]:
  """Return the JSON of `init.weights`, if any."""
  return pretrained.read_json(init.weights) if init.weights else {}


def _tokenizer_of(stored: dict[str, Any]) -> 'Tokenizer | None':
  from rtjax.language.tokenizer import Tokenizer
  return Tokenizer.from_json(stored['tokenizer']) if stored.get('tokenizer') else None


def fill_backbone_part(model: PolicyModel, part: str, folder: str | os.PathLike) -> str:
  """Copy, in place, a backbone's part from a Hugging Face folder.

  Args:
    part: of BACKBONE_PARTS.

  Returns:
    A report for people: the variables that were loaded, that are new and that were left out.

  Raises:
    FileNotFoundError, ValueError: as `load_huggingface`; or nothing at all fits.
  """
  from rtjax.pretrained import huggingface
  found, tensors = huggingface.open_folder(folder)
  prefix = BACKBONE_PARTS[part]
  theirs = {f'{prefix}{name}': jax.ShapeDtypeStruct(shape, 'float32') for name, shape in found.variables.items()}
  ours = initialize.sizes(model)
  fitting = initialize.matching(theirs, ours)
  if not fitting:
    expected = 'a T5' if part == 'text' else 'a ViT or SigLIP'
    raise ValueError(f'--init.{part} {folder}: it holds a {type(found.config).__name__.removesuffix("Config")}, '
                     f'expected {expected}; none of its {len(theirs)} variables fits the {part} part of this network. '
                     f'Give model.backbone.{part} the sizes of its config.json.')
  backbone: Any = model.config.backbone  # type: ignore[attr-defined]
  own, published = getattr(backbone, part, backbone), cast(Any, found.config)
  _check_unseen(published, own, part, folder)
  positions, resized = f'{prefix}positions', ''
  if positions in theirs and positions not in fitting and own.width == published.width:
    fitting[positions] = ours[positions]
    resized = f'\n  interpolated: positions of {published.grid} patches for {own.grid}'
  wanted = {name.removeprefix(prefix) for name in fitting}

  def values() -> Iterator[tuple[str, Any]]:
    for name, value in huggingface.stream(found, tensors, wanted=wanted):
      name = f'{prefix}{name}'
      yield name, resize_positions(jnp.asarray(value), published, own.grid) if name == positions else value
  parameters.assign_each(model, values())
  part_of_ours = {name: value for name, value in ours.items() if name.startswith(prefix)}
  unused = f'\n  not used here: {", ".join(sorted(found.ignored))}' if found.ignored else ''
  return f'{part} started from {folder}:\n' + initialize.summary(part_of_ours, theirs, fitting, resized) + unused


def _check_unseen(found: Any, own: Any, part: str, folder: str | os.PathLike) -> None:
  """Refuse another computation that the shapes of the weights do not show."""
  if other := [f'{name} {theirs!r}, model.backbone.{part} has {ours!r}' for name in _UNSEEN
               if (theirs := getattr(found, name, None)) != (ours := getattr(own, name, None))]:
    raise ValueError(f'--init.{part} {folder}: its {type(found).__name__.removesuffix("Config")} has '
                     f'{"; ".join(other)}. With these weights that would be another network: choose a preset of its '
                     f'kind, or set --model.backbone.{part}.{other[0].split()[0].replace("_", "-")} accordingly.')
