"""Reader of the released RT-1-X of Open X-Embodiment.

The files are Flax variables in a msgpack file or an Orbax folder.

Sizes (layers, widths, window, bins) come from the shapes, which also distinguish RT-1-X from the plain RT-1 of the same
code. Source: google-deepmind/open_x_embodiment, models/rt1.py and rt1_inference_example.py.
"""
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from rtjax import actions, checkpoints
from rtjax.checkpoints import UNIVERSAL_SENTENCE_ENCODER, PolicyMetadata
from rtjax.models import RT1_X, PolicyModel, RT1Config
from rtjax.models.backbones.film_efficientnet import IMAGENET_MEAN, IMAGENET_STD
from rtjax.pretrained.matching import Names, build
from rtjax.runtime import limits

_TOKENIZER = 'image_tokenizer/'
_ENCODER = f'{_TOKENIZER}EfficientNetWithFilm_0/'
_BLOCK = 'Transformer_0/TransformerBlock_'
_FILE = 'checkpoint'
_ORBAX = ('_METADATA', '_CHECKPOINT_METADATA', 'manifest.ocdbt')


def find(path: str | os.PathLike) -> pathlib.Path | None:
  """Find the msgpack file or Orbax folder at or below `path`."""
  path = pathlib.Path(path)
  if path.is_file():
    return path if _is_msgpack(path) else None
  return _in_folder(path) or next(filter(None, map(_in_folder, reversed(list(limits.folders(path))))), None)


def _in_folder(folder: pathlib.Path) -> pathlib.Path | None:
  if any((folder / name).exists() for name in _ORBAX):
    return folder
  return folder / _FILE if _is_msgpack(folder / _FILE) else None


def load(path: str | os.PathLike) -> tuple[PolicyModel, PolicyMetadata]:
  """Load a released RT-1-X.

  Raises:
    FileNotFoundError: there is no Flax checkpoint.
    ValueError: it cannot be read, is not an RT-1-X, or variables are missing, unknown or of another shape.
  """
  checkpoint = find(path)
  if checkpoint is None:
    raise FileNotFoundError(f'no RT-1-X at {path}: expected a msgpack file called {_FILE!r}, its folder, or an Orbax '
                            'folder.')
  values = _read(checkpoint)
  config = _config(values, str(checkpoint))
  model = build(config, values, variables(config), str(checkpoint), constants={
      'image_encoder/mean': np.array(IMAGENET_MEAN, np.float32),
      'image_encoder/variance': np.array(IMAGENET_STD, np.float32)})
  return model, PolicyMetadata(str(path), UNIVERSAL_SENTENCE_ENCODER)


def variables(config: RT1Config) -> Names:
  """Return the names of all variables; in the reference without their collection."""
  def dense(theirs: str, ours: str) -> Names:
    return [(f'{theirs}/{kind}', f'{ours}/{kind}') for kind in ('kernel', 'bias')]

  def norm(theirs: str, ours: str, *more: str) -> Names:
    return [(f'{theirs}/{kind}', f'{ours}/{kind}') for kind in ('scale', 'bias', *more)]

  def film(theirs: str, ours: str) -> Names:
    return dense(f'{theirs}/Dense_0', f'{ours}/add') + dense(f'{theirs}/Dense_1', f'{ours}/mult')

  pairs: Names = []
  for theirs, ours in _convolutions(config):
    pairs += norm(theirs, ours, 'mean', 'var') if 'batch_normalization' in theirs else [(f'{theirs}kernel', ours)]
  for index, _ in enumerate(_expanding(config)):
    theirs, ours = f'{_ENCODER}MBConvBlock_{index}/SqueezeExcite_0', f'image_encoder/encoder/blocks/{index}'
    pairs += dense(f'{theirs}/reduce_conv2d_0', f'{ours}/squeeze')
    pairs += dense(f'{theirs}/expand_conv2d_0', f'{ours}/excite')
    pairs += film(f'{_ENCODER}FilmConditioning_{index}', f'{ours}/film')
  pairs += [(f'{_TOKENIZER}Conv_0/kernel', 'image_encoder/conv/kernel')]
  pairs += film(f'{_TOKENIZER}FilmConditioning_0', 'image_encoder/film')
  learner = f'{_TOKENIZER}TokenLearnerModuleV11_0/'
  pairs += norm(f'{learner}LayerNorm_0', 'token_learner/norm')
  pairs += dense(f'{learner}token_masking/Dense_0', 'token_learner/hidden')
  pairs += dense(f'{learner}token_masking/Dense_1', 'token_learner/output')
  for number, part in enumerate(('embed', 'position', 'output')):
    pairs += dense(f'Transformer_0/Dense_{number}', f'transformer/{part}')
  for layer in range(config.layers):
    theirs, ours = f'{_BLOCK}{layer}', f'transformer/layers/{layer}'
    for part in ('query', 'key', 'value', 'out'):
      pairs += dense(f'{theirs}/MultiHeadDotProductAttention_0/{part}', f'{ours}/attention/{part}')
    pairs += norm(f'{theirs}/LayerNorm_0', f'{ours}/attention_norm')
    pairs += norm(f'{theirs}/LayerNorm_1', f'{ours}/feed_forward_norm')
    pairs += [(f'{theirs}/Dense_{number}/kernel', f'{ours}/feed_forward/{part}/kernel')
              for number, part in enumerate(('hidden', 'gate', 'out'))]
  return pairs


def _expanding(config: RT1Config) -> list[bool]:
  """Return, for each block, whether it begins with an expansion."""
  encoder = config.encoder
  return [stage.expand > 1 for stage in encoder.stages for _ in range(encoder.repeats(stage))]


def _convolutions(config: RT1Config) -> Iterator[tuple[str, str]]:
  """Yield the names of convolutions without bias and of their BatchNorms."""
  prefix = 'image_encoder/encoder/'
  yield from [(f'{_ENCODER}Stem_0/conv2d/', f'{prefix}stem'),
              (f'{_ENCODER}Stem_0/batch_normalization', f'{prefix}stem_norm')]
  for index, expands in enumerate(_expanding(config)):
    theirs, ours = f'{_ENCODER}MBConvBlock_{index}/', f'{prefix}blocks/{index}/'
    parts = [('depthwise_conv2d/depthwise_', 'depthwise', 'depthwise_norm'),
             ('project_conv2d_0/', 'project/kernel', 'project_norm')]
    if expands:
      parts.insert(0, ('expand_conv2d_0/', 'expand/kernel', 'expand_norm'))
    for number, (convolution, kernel, norm) in enumerate(parts):
      yield f'{theirs}{convolution}', f'{ours}{kernel}'
      yield f'{theirs}batch_normalization_{number}', f'{ours}{norm}'
  yield from [(f'{_ENCODER}Head_0/conv2d/', f'{prefix}head/kernel'),
              (f'{_ENCODER}Head_0/batch_normalization', f'{prefix}head_norm')]


def _is_msgpack(path: pathlib.Path) -> bool:
  """Return whether a file is a msgpack map, not TensorFlow's text file."""
  if not path.is_file():
    return False
  with path.open('rb') as file:
    first = file.read(1)
  return bool(first) and (0x80 <= first[0] <= 0x8f or first[0] in (0xde, 0xdf))


def _read(checkpoint: pathlib.Path) -> dict[str, np.ndarray]:
  """Return the network's variables, without the rest of a training state."""
  try:
    if checkpoint.is_file():
      from flax import serialization
      limits.check_file(checkpoint, limits.WEIGHTS_BYTES)
      tree = serialization.msgpack_restore(checkpoint.read_bytes())
    else:
      limits.check_all_downloaded(checkpoint)
      tree = checkpoints.read_arrays(epath.Path(checkpoint.absolute()), ('params', 'batch_stats'))
  except (limits.BoundError, limits.PointerError):
    raise
  except Exception as error:
    raise ValueError(f'{checkpoint} cannot be read as a Flax checkpoint: {error}. Is it complete? Copy it again.'
                     ) from error
  tree = limits.json_object(tree, checkpoint)
  missing = {'params', 'batch_stats'} - set(tree)
  if missing:
    raise ValueError(f'{checkpoint} is a Flax checkpoint without {sorted(missing)}; it holds '
                     f'{sorted(map(str, tree))[:5]}. Expected the variables of RT-1-X.')
  return {name: np.asarray(value) for part in ('params', 'batch_stats')
          for name, value in _flat(limits.json_object(tree[part], f'{part!r} of {checkpoint}'))}


def _flat(tree: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
  for key, value in tree.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f'{prefix}{key}/')
    else:
      yield f'{prefix}{key}', value


def _config(values: Mapping[str, np.ndarray], source: str) -> RT1Config:
  """Return the architecture that the shapes imply."""
  try:
    _, heads, head_size = values[f'{_BLOCK}0/MultiHeadDotProductAttention_0/query/kernel'].shape
    positions, width = values['Transformer_0/Dense_1/kernel'].shape
    vocab_size = values['Transformer_0/Dense_2/kernel'].shape[-1]
    image_tokens = values[f'{_TOKENIZER}TokenLearnerModuleV11_0/token_masking/Dense_1/kernel'].shape[-1]
  except (KeyError, ValueError) as error:
    raise ValueError(f'{source} does not look like RT-1-X: {error} is missing or has another rank, so that its '
                     'architecture cannot be read.') from None
  # The reference has a second set of bins: those of RT-1, with RT-1-X's rule for tokens that are no class.
  plain = dataclasses.replace(actions.RT1, fields=(actions.RT1_X.fields[0], *actions.RT1.fields[1:]))
  specs = {spec.vocab_size: spec for spec in (actions.RT1_X, plain)}
  window, rest = divmod(positions, image_tokens + actions.RT1_X.num_tokens)
  if rest or vocab_size not in specs:
    raise ValueError(f'{source} has {positions} positions, {image_tokens} image tokens and {vocab_size} bins: not a '
                     f"whole number of steps with RT-1-X's {actions.RT1_X.num_tokens} action tokens of "
                     f'{sorted(specs)} bins.')
  layers = {name.split('/')[1] for name in values if name.startswith(_BLOCK)}
  return dataclasses.replace(RT1_X, action_spec=specs[vocab_size], window=window, image_tokens=image_tokens,
                             width=width, layers=len(layers), heads=heads, head_size=head_size)
