"""Initial weights of a run, and its normalisation.

Weights may come from another dataset, action space, window or horizon.
"""
import functools
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rtjax import models, pretrained
from rtjax.checkpoints import UnreadWeights
from rtjax.models import PolicyConfig, PolicyModel, parameters
from rtjax.models.layers import lora
from rtjax.observation import Batch
from rtjax.pretrained import keras_efficientnet
from rtjax.training import pruning

_IMAGE_ENCODER = 'image_encoder/'
_POSITION = 'transformer/position/kernel'
_SHOWN = 8

Sized = Mapping[str, Any]
"""Arrays, or their shapes and types alone."""


def set_normalization(model: PolicyModel, statistics: dict[str, Any]) -> None:
  """Set the statistics of the inputs that the model normalises.

  Args:
    statistics: result of `rtjax.data.statistics`: {dataset: {'steps', 'proprioception': {'mean', 'std', ...}, ...}}.

  Raises:
    ValueError: a dataset has no proprioception, and the model normalises it.
  """
  model.set_normalization(functools.partial(_moments, statistics))


def _moments(statistics: dict[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
  """Return mean and standard deviation over all datasets."""
  lacking = [dataset for dataset, found in statistics.items() if not found.get(name)]
  if lacking:
    raise ValueError(f'this model needs statistics of {name}, and the adapters of {lacking} name no {name}.')
  steps = np.array([found['steps'] for found in statistics.values()])
  means, stds = (np.array([found[name][moment] for found in statistics.values()]) for moment in ('mean', 'std'))
  mean = np.average(means, 0, steps)
  return mean, np.sqrt(np.average(stds ** 2 + (means - mean) ** 2, 0, steps))


def start_from(model: PolicyModel, path: str | os.PathLike, prune_on: list[Batch] | None = None) -> str:
  """Copy, in place, every variable of equal name and shape.

  From a model of another kind, only the image encoder is copied.

  The rows of the position embedding are copied one by one where they mean the same: the same distance from the newest
  frame, and the same image token, or the same action token (by its name in the ActionSpec) to predict. The output layer
  stays new where the vocabulary has another size, and is copied otherwise, even for other actions.

  Args:
    model: newly initialised.
    path: anything that `rtjax.load_model` reads; or 'imagenet' (Keras downloads it) or an .h5 file of it, for the image
      encoder alone.
    prune_on: batches to measure the importance of heads and layers with, which are then removed from a larger
      transformer; None removes nothing.

  Returns:
    A report for people: the variables that were loaded, that are new and that were left out.

  Raises:
    FileNotFoundError, ValueError: as `rtjax.load_model`; or nothing at all fits.
  """
  if str(path) == 'imagenet' or str(path).endswith('.h5'):
    filled = keras_efficientnet.load_imagenet(model, path)
    return f'started from {path}:\n  loaded: {len(filled)} variables of the image encoder; all others are new'
  source, changes = _pruned(path, model, prune_on) if prune_on is not None else (pretrained.open_weights(path), '')
  if source.config.lora.rank and source.config.lora != model.config.lora:
    source, changes = _merged(source)
  theirs, ours = _sized(parameters.shapes_of_layers(source.shapes)), sizes(model)
  fitting, changed, partly = matching(theirs, ours), {}, ''
  if models.model_class(source.config) is not type(model):  # elsewhere the same name may have another role
    fitting = {name: size for name, size in fitting.items() if name.startswith(_IMAGE_ENCODER)}
  elif _POSITION in ours and _POSITION in theirs:
    (_, rows), = source.read([_POSITION])
    kernel, count = merge_positions(jnp.asarray(rows), parameters.reader(model)(_POSITION), source.config, model.config)
    if count < len(kernel):
      partly = f'\n  in part: {_POSITION} ({count} of {len(kernel)} rows)'
    changed[_POSITION], fitting[_POSITION] = kernel, ours[_POSITION]
  if not fitting:
    raise ValueError(f'--init.weights {path}: none of its {len(theirs)} variables fits this network. Give the model '
                     'the sizes of the one it starts from (width, layers, heads, ...).')
  parameters.assign_each(model, ((name, changed.get(name, value))
                                 for name, value in _fitting_values(source, model, fitting)))
  return f'started from {path}:{changes}\n' + summary(ours, theirs, fitting, partly)


def _merged(source: UnreadWeights) -> tuple[UnreadWeights, str]:
  """Return the weights with adapters folded into their kernels, and a report."""
  config = source.config.lora
  adapted = {f'{name.removesuffix("/lora_a")}/kernel' for name in source.shapes if name.endswith('/lora_a')}

  def read(names: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
    yield from source.read([name for name in names if name not in adapted])
    for name in adapted.intersection(names):
      parts = [name, *(name.replace('/kernel', f'/lora_{part}') for part in 'ab')]
      values = dict(source.read(parts))
      kernel, a, b = (jnp.asarray(values[part], jnp.float32) for part in parts)
      yield name, np.asarray(lora.merge(kernel, a, b, config.alpha / config.rank))
  shapes = {name: shape for name, shape in source.shapes.items() if not lora.is_adapter(name)}
  return UnreadWeights(source.config, shapes, read), (
      f'\n  its adapters, of rank {config.rank}, are folded into {len(adapted)} kernels')


def _pruned(path: str | os.PathLike, model: PolicyModel, batches: list[Batch]) -> tuple[UnreadWeights, str]:
  """Return the weights of a larger network, pruned, and a report."""
  source = pretrained.load_model(path)
  if not source.config.prunable_layers or source.config.prunable_layers != model.config.prunable_layers:
    raise ValueError(f'--init.prune removes heads and layers of RT-1 or RT-1-X; {path} is {type(source).__name__}, '
                     f'this model {type(model).__name__}.')
  source, report = pruning.prune(source, model.config, batches)
  return pretrained.opened(source), report


def _fitting_values(source: UnreadWeights, model: PolicyModel, fitting: Collection[str]) -> Iterator[tuple[str, Any]]:
  """Yield variables that fit, equal stacks of layers as a whole."""
  layers = {place: parameters.names_of_layers(place, shape) for place, shape in source.shapes.items()}
  own = parameters.stored_shapes(model)
  for place, value in source.read([place for place, names in layers.items() if any(name in fitting for name in names)]):
    if own.get(place) == value.shape or layers[place] == [place]:
      yield place, value
    else:
      yield from ((name, row) for name, row in zip(layers[place], value, strict=True) if name in fitting)


def sizes(model: PolicyModel) -> dict[str, jax.ShapeDtypeStruct]:
  """Return the shape of every variable."""
  return _sized(parameters.shapes(model))


def _sized(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, jax.ShapeDtypeStruct]:
  return {name: jax.ShapeDtypeStruct(shape, 'float32') for name, shape in shapes.items()}


def matching(theirs: Sized, ours: Sized) -> dict[str, Any]:
  """Return those of `theirs` with name and shape in `ours`."""
  return {name: value for name, value in theirs.items() if name in ours and ours[name].shape == value.shape}


def summary(ours: Sized, theirs: Sized, fitting: Sized, partly: str = '') -> str:
  """Return a report of loaded, new and ignored variables."""
  new = [name for name in ours if name not in fitting]
  left_out = [name for name in theirs if name not in fitting]
  return (f'  loaded: {_amount({n: ours[n] for n in fitting})}{partly}\n'
          f'  new: {_amount({n: ours[n] for n in new})}{_list(new)}\n'
          f'  left out: {_amount({n: theirs[n] for n in left_out})}{_list(left_out)}')


def merge_positions(theirs: jax.Array, ours: jax.Array, their_config: PolicyConfig,
                    our_config: PolicyConfig) -> tuple[jax.Array, int]:
  """Return `ours` with equivalent rows of `theirs`, and their number.

  Args:
    theirs, ours: float32 [T * tokens per frame, D].
  """
  if theirs.shape[1] != ours.shape[1]:
    return ours, 0
  merged, rows = np.array(ours), 0
  their_rows = {meaning: row for row, meaning in enumerate(_meanings(their_config, len(theirs)))}
  for row, meaning in enumerate(_meanings(our_config, len(ours))):
    if meaning in their_rows:
      merged[row] = theirs[their_rows[meaning]]
      rows += 1
  return jnp.asarray(merged), rows


def _meanings(config: PolicyConfig, positions: int) -> list[tuple[object, ...]]:
  """Return the meaning of each position: frame age and token.

  The logits of an action token are read one position before it (rt1.py), those of the first at the last input token.
  """
  actions = [(later, name) for later in range(config.horizon) for name in config.action_spec.token_names]
  inputs = positions // config.window - len(actions)
  frame: list[tuple[object, ...]] = [('input', inputs, i) for i in range(inputs)]
  frame += [('predicts', *token) for token in actions[1:]] + [('last',)]
  return [(age, *meaning) for age in reversed(range(config.window)) for meaning in frame]


def _amount(variables: Sized) -> str:
  return f'{len(variables)} variables, {sum(v.size for v in variables.values()):,} numbers'


def _list(names: list[str]) -> str:
  more = f', ... and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
  return f' ({", ".join(names[:_SHOWN])}{more})' if names else ''
