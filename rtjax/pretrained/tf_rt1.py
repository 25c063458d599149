"""Reader of the released TensorFlow RT-1: checkpoints (`ckpt-424760.index`) and SavedModel folders.

A checkpoint names its variables by attribute, a SavedModel numbers them in tf.Module's flattening order. `variables`
lists them once, in that order, each with its name in rtjax; values are only reshaped. Sizes (layers, widths, window)
come from the shapes: main and simreal have 35.3 M parameters, multirobot 111 M in 10 layers.

Source: robotics_transformer, trained_checkpoints/ and transformer_network.py.
"""
import glob
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rtjax import actions
from rtjax.checkpoints import UNIVERSAL_SENTENCE_ENCODER, PolicyMetadata
from rtjax.models import PolicyModel, RT1Config
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig
from rtjax.pretrained.matching import Names, build
from rtjax.runtime import cli, limits

_SUFFIX = '/.ATTRIBUTES/VARIABLE_VALUE'
_NETWORK = 'agent/_actor_network/'
_IMAGE = '_image_tokenizer/_tokenizer/'
_NORM: Names = [('moving_mean', 'mean'), ('moving_variance', 'var'), ('gamma', 'scale'), ('beta', 'bias')]
_FILM: Names = [(f'_projection_{part}/{kind}', f'{part}/{kind}')
                 for part in ('add', 'mult') for kind in ('kernel', 'bias')]
_DENSE: Names = [('kernel', 'kernel'), ('bias', 'bias')]
_LAYER_NORM: Names = [('gamma', 'scale'), ('beta', 'bias')]

# Variables of the checkpoint that do not affect the network's output.
UNUSED = ('_action_token_emb/kernel', '_action_token_emb/bias', f'{_IMAGE}net/layer_with_weights-0/count')


def variables(layers: int) -> Names:
  """Return all names in the order of `model_variables/1, 2, ...`."""
  pairs: Names = [(UNUSED[0], None), (UNUSED[1], None), (f'{_IMAGE}conv1x1/kernel', 'image_encoder/conv/kernel')]
  for index, (prefix, names) in enumerate(encoder_layers()):
    pairs += [(f'{_IMAGE}net/layer_with_weights-{index}/{theirs}', ours and f'{prefix}{ours}')
              for theirs, ours in names]
  pairs += [(f'{_IMAGE}film_layer/{theirs}', f'image_encoder/film/{ours}') for theirs, ours in _FILM]
  learner = '_image_tokenizer/_token_learner/'
  for theirs, ours, names in [('mlp/_hidden_layer', 'hidden', _DENSE), ('mlp/_output_layer', 'output', _DENSE),
                              ('layernorm', 'norm', _LAYER_NORM)]:
    pairs += [(f'{learner}{theirs}/{a}', f'token_learner/{ours}/{b}') for a, b in names]
  for layer in range(layers):
    for theirs, ours, names in [
        ('layernorm1', 'attention_norm', _LAYER_NORM), ('mha1/_key_dense', 'attention/key', _DENSE),
        ('mha1/_output_dense', 'attention/out', _DENSE), ('mha1/_query_dense', 'attention/query', _DENSE),
        ('mha1/_value_dense', 'attention/value', _DENSE), ('ff', 'feed_forward', _DENSE),
        ('layernorm2', 'feed_forward_norm', _LAYER_NORM)]:
      pairs += [(f'_transformer/_layers/{layer}/{theirs}/{a}', f'transformer/layers/{layer}/{ours}/{b}')
                for a, b in names]
  for theirs, ours in [('_output_tokens', 'output'), ('_position_emb', 'position'), ('_token_emb', 'embed')]:
    pairs += [(f'_transformer/{theirs}/{a}', f'transformer/{ours}/{b}') for a, b in _DENSE]
  return pairs


def encoder_layers() -> Iterator[tuple[str, Names]]:
  """Yield prefix and variable names of each Keras layer with weights."""
  yield 'image_encoder/', [('mean', 'mean'), ('variance', 'variance'), ('count', None)]
  yield 'image_encoder/encoder/', [('kernel', 'stem')]
  yield 'image_encoder/encoder/stem_norm/', _NORM
  b3 = EfficientNetConfig()
  for index, stage in enumerate(s for s in b3.stages for _ in range(b3.repeats(s))):
    prefix = f'image_encoder/encoder/blocks/{index}/'
    if stage.expand > 1:
      yield f'{prefix}expand/', [('kernel', 'kernel')]
      yield f'{prefix}expand_norm/', _NORM
    yield prefix, [('depthwise_kernel', 'depthwise')]
    yield f'{prefix}depthwise_norm/', _NORM
    yield f'{prefix}squeeze/', _DENSE
    yield f'{prefix}excite/', _DENSE
    yield f'{prefix}project/', [('kernel', 'kernel')]
    yield f'{prefix}project_norm/', _NORM
    yield f'{prefix}film/', _FILM
  yield 'image_encoder/encoder/head/', [('kernel', 'kernel')]
  yield 'image_encoder/encoder/head_norm/', _NORM


def find(path: str | os.PathLike) -> str | None:
  """Return the prefix of the checkpoint or SavedModel at `path`."""
  path = pathlib.Path(path)
  if path.suffix in ('.index', '.meta') or '.data-' in path.name:
    path = path.with_name(path.name.split('.data-')[0].removesuffix('.index').removesuffix('.meta'))
  if pathlib.Path(f'{path}.index').is_file():
    return str(path)
  if (path / 'variables/variables.index').is_file():
    return str(path / 'variables/variables')
  prefixes = sorted(path.glob('*.index'), key=lambda p: p.stat().st_mtime)
  return str(prefixes[-1].with_suffix('')) if prefixes else None


def load(path: str | os.PathLike) -> tuple[PolicyModel, PolicyMetadata]:
  """Load a released RT-1, with the input normalisation of its training.

  Raises:
    FileNotFoundError: there is no TensorFlow checkpoint.
    ValueError: it is damaged or not an RT-1, or variables are missing, unknown or of another shape; the error names
      them.
  """
  prefix = find(path)
  if prefix is None:
    raise FileNotFoundError(f'no TensorFlow checkpoint at {path}: expected PREFIX.index, a folder that holds one, or a '
                            'SavedModel folder with variables/variables.index.')
  values = _read(prefix)
  config = _config(values, prefix)
  model = build(config, values, variables(config.layers), prefix)
  return model, PolicyMetadata(str(path), UNIVERSAL_SENTENCE_ENCODER)


def _read(prefix: str) -> dict[str, np.ndarray]:
  """Return the network's variables by their names in a checkpoint."""
  # TensorFlow reads them because the released files are Snappy-compressed inside.
  import tensorflow as tf
  data = sorted(pathlib.Path(prefix).parent.glob(f'{glob.escape(pathlib.Path(prefix).name)}.data-*'))
  for file in (pathlib.Path(f'{prefix}.index'), *data):
    limits.check_file(file)
  try:
    reader = tf.train.load_checkpoint(prefix)
    shapes = reader.get_variable_to_shape_map()
  except Exception as error:  # of several kinds, not all of TensorFlow's own
    raise _damaged(prefix, error) from error
  stored, declared = sum(file.stat().st_size for file in data), sum(map(_num_bytes, shapes.values()))
  if declared > stored:
    raise limits.BoundError(f'{prefix} declares {declared:,} bytes of variables, its data files hold {stored:,}. Is '
                            'the copy complete?')
  keys = [key.removesuffix(_SUFFIX) for key in shapes]
  if any(key.startswith('model_variables/') for key in keys):
    numbers = {int(key.split('/')[1]) for key in keys if key.startswith('model_variables/')}
    per_layer = len(variables(1)) - len(variables(0))
    pairs = variables((len(numbers) - len(variables(0))) // per_layer)
    keys_of = {pairs[n - 1][0] if n <= len(pairs) else f'model_variables/{n}': f'model_variables/{n}' for n in numbers}
  else:
    # Optimizer slots are stored beside their variables.
    keys_of = {key.removeprefix(_NETWORK): key for key in keys
               if key.startswith(_NETWORK) and '.OPTIMIZER_SLOT' not in key}
  if not keys_of:
    raise ValueError(f'{prefix} is a TensorFlow checkpoint, but not of RT-1: nothing in it is called {_NETWORK}... or '
                     f'model_variables/N. It holds, for example, {sorted(keys)[:3]}.')
  try:
    return {name: reader.get_tensor(key + _SUFFIX) for name, key in keys_of.items()}
  except Exception as error:
    raise _damaged(prefix, error) from error


def _num_bytes(shape: Sequence[int]) -> int:
  """Return the least bytes of a variable: one for each number."""
  return limits.array_bytes(shape, np.int8)


def _damaged(prefix: str, error: Exception) -> ValueError:
  return ValueError(f'the TensorFlow checkpoint {prefix} is damaged: {cli.describe(error)}. Copy or download '
                    'it again.')


def _config(values: Mapping[str, np.ndarray], prefix: str) -> RT1Config:
  """Return the architecture that the shapes imply."""
  try:
    positions, width = values['_transformer/_position_emb/kernel'].shape
    _, heads, head_size = values['_transformer/_layers/0/mha1/_query_dense/kernel'].shape
    image_tokens = values['_image_tokenizer/_token_learner/mlp/_output_layer/kernel'].shape[-1]
    vocab_size = values['_transformer/_output_tokens/kernel'].shape[-1]
  except (KeyError, ValueError) as error:
    raise ValueError(f'{prefix} does not look like RT-1: {error} is missing or has another rank, so that its '
                     'architecture cannot be read.') from None
  window, rest = divmod(positions, image_tokens + actions.RT1.num_tokens)
  if rest or vocab_size != actions.RT1.vocab_size:
    raise ValueError(f'{prefix} has {positions} positions, {image_tokens} image tokens and {vocab_size} bins: '
                     f"not a whole number of steps with RT-1's {actions.RT1.num_tokens} action tokens of 256.")
  layers = {name.split('/')[2] for name in values if name.startswith('_transformer/_layers/')}
  return RT1Config(window=window, image_tokens=image_tokens, width=width, layers=len(layers), heads=heads,
                   head_size=head_size)
