"""ImageNet weights for the image encoder of RT-1 and its variants, as the official code starts from them.

Keras's EfficientNet-B3 without its top fills the encoder and the input normalisation; the FiLM layers stay zero, so
that the encoder computes at first what Keras's does. Source: robotics_transformer, film_efficientnet_encoder.py.
"""
import os
import pathlib

import numpy as np

from rtjax.models import Model, parameters
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig
from rtjax.pretrained.tf_rt1 import encoder_layers


def load_imagenet(model: Model, weights: str | os.PathLike = 'imagenet') -> list[str]:
  """Fills the encoder of `model` in place; needs Keras, which comes with `pip install rtjax[data]`.

  Args:
    weights: a file such as `efficientnetb3_notop.h5` or Keras 3's `*.weights.h5`; or 'imagenet', which Keras downloads.

  Returns:
    The names of the variables filled.

  Raises:
    FileNotFoundError: no such file, or Keras could not download it.
    ValueError: the encoder is not B3, or the file does not hold its weights.
  """
  encoder = model.config.encoder
  if encoder != EfficientNetConfig(drop_connect=encoder.drop_connect, momentum=encoder.momentum):
    raise ValueError(f'ImageNet weights are those of EfficientNet-B3; this encoder is {encoder}.')
  loaded = {name: value for name, value in _variables(weights).items() if value is not None}
  ours = parameters.shapes(model)
  parameters.check({name: ours[name] for name in loaded}, {
      name: ours[name] if value.size == np.prod(ours[name]) else value.shape for name, value in loaded.items()},
      f'the ImageNet weights {weights}')
  values = parameters.named(model) | {name: value.reshape(ours[name]) for name, value in loaded.items()}
  parameters.assign(model, values)
  return list(loaded)


def _variables(weights: str | os.PathLike) -> dict[str, np.ndarray]:
  """Keras's variables by their names in rtjax."""
  model = _keras_model(weights)
  layers = [layer for layer in model.layers if layer.weights]
  places = [(place, dict(names)) for place, names in encoder_layers() if not place.endswith('film/')]
  values = {}
  for layer, (place, names) in zip(layers, places, strict=True):
    for variable in layer.weights:
      # Keras 3 calls a depthwise kernel just 'kernel'.
      ours = names['depthwise_kernel'] if 'depthwise_kernel' in names else names[variable.name]
      if ours is not None:
        values[place + ours] = np.asarray(variable)
  return values


def _keras_model(weights: str | os.PathLike):
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
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
  model = keras.applications.EfficientNetB3(weights=None, **options)
  try:
    model.load_weights(str(weights))
  except Exception as error:
    raise ValueError(f'{weights} does not hold the weights of EfficientNet-B3 without top: {error}') from error
  return model
