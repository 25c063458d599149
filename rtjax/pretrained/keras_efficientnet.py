"""ImageNet weights for the image encoder of RT-1, the official initialisation.

Keras's EfficientNet-B3 without its top gives the encoder and the input normalisation. The FiLM layers stay zero, so
that the encoder first computes the same as Keras's. Source: robotics_transformer, film_efficientnet_encoder.py.
"""
import os
import pathlib

import numpy as np

from rtjax.models import PolicyModel, RT1Config, RT1MultiviewConfig, parameters
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig
from rtjax.pretrained.tf_rt1 import encoder_layers
from rtjax.runtime import limits


def load_imagenet(model: PolicyModel, weights: str | os.PathLike = 'imagenet') -> list[str]:
  """Set the encoder's variables in place; needs Keras (`pip install rtjax[data]`).

  Args:
    weights: a file such as `efficientnetb3_notop.h5` or Keras 3's `*.weights.h5`; or 'imagenet', which Keras downloads.

  Returns:
    The names of the variables that were set.

  Raises:
    FileNotFoundError: there is no such file, or Keras could not download it.
    ValueError: the encoder is not EfficientNet-B3, or the file does not hold its weights, or they are not finite.
  """
  config = model.config
  encoder = config.encoder if isinstance(config, RT1Config | RT1MultiviewConfig) else None
  if encoder is None or encoder != EfficientNetConfig(drop_connect=encoder.drop_connect, momentum=encoder.momentum):
    raise ValueError(f'ImageNet weights are those of EfficientNet-B3; the encoder of this model is {encoder}.')
  loaded = {name: value for name, value in _variables(weights).items() if value is not None}
  shapes = parameters.shapes(model)
  parameters.check({name: shapes[name] for name in loaded}, {
      name: shapes[name] if value.size == np.prod(shapes[name]) else value.shape for name, value in loaded.items()},
      f'the ImageNet weights {weights}')
  parameters.check_finite(loaded, f'the file of ImageNet weights {weights}')
  values = parameters.named(model) | {name: value.reshape(shapes[name]) for name, value in loaded.items()}
  parameters.assign(model, values)
  return list(loaded)


def _variables(weights: str | os.PathLike) -> dict[str, np.ndarray]:
  """Return Keras's variables by their names in rtjax."""
  model = _keras_model(weights)
  layers = [layer for layer in model.layers if layer.weights]
  prefixes = [(prefix, dict(names)) for prefix, names in encoder_layers() if not prefix.endswith('film/')]
  values = {}
  for layer, (prefix, names) in zip(layers, prefixes, strict=True):
    for variable in layer.weights:
      # Keras 3 names a depthwise kernel 'kernel'.
      ours = names['depthwise_kernel'] if 'depthwise_kernel' in names else names[variable.name]
      if ours is not None:
        values[prefix + ours] = np.asarray(variable)
  return values


def _keras_model(weights: str | os.PathLike):
  import keras
  options = {'include_top': False, 'input_shape': (None, None, 3)}
  if str(weights) == 'imagenet':
    try:
      return keras.applications.EfficientNetB3(weights='imagenet', **options)
    except Exception as error:
      raise FileNotFoundError(f'Keras could not download its ImageNet weights ({error}). Fetch efficientnetb3_notop.h5 '
                              'elsewhere and give its path.') from error
  if not pathlib.Path(weights).is_file():
    raise FileNotFoundError(f'no ImageNet weights at {weights}: expected a file such as efficientnetb3_notop.h5.')
  limits.check_file(weights)
  model = keras.applications.EfficientNetB3(weights=None, **options)
  try:
    model.load_weights(str(weights))
  except Exception as error:
    raise ValueError(f'{weights} does not hold the weights of EfficientNet-B3 without top: {error}') from error
  return model
