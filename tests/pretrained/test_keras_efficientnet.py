"""Image encoder against keras.applications.EfficientNetB3, and ImageNet weights."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rtjax.models import RT1Config, RT1MultiviewConfig, abstract, build
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig
from rtjax.pretrained.keras_efficientnet import load_imagenet

keras = pytest.importorskip('keras')
CONFIG = RT1Config(layers=1)


@pytest.fixture(scope='module')
def reference():
  """Return Keras's network with random weights and BatchNorm statistics."""
  network = keras.applications.EfficientNetB3(include_top=False, weights=None, input_shape=(None, None, 3))
  random = np.random.default_rng(0)
  for variable in network.weights:
    shape = tuple(variable.shape)
    if variable.name in ('moving_mean', 'beta', 'bias', 'mean'):
      variable.assign(random.normal(0, 0.1, shape))
    elif variable.name in ('moving_variance', 'gamma', 'variance'):
      variable.assign(random.uniform(0.8, 1.2, shape))
  # The layer uses its mean and variance only after this call.
  for layer in network.layers:
    if type(layer).__name__ == 'Normalization':
      layer.finalize_state()
  return network


@pytest.mark.slow
@pytest.mark.parametrize('kind,config', [('keras3', CONFIG), ('legacy', RT1MultiviewConfig(layers=1))])
def test_equals_keras(reference, tmp_path, kind, config):
  path = tmp_path / ('b3.weights.h5' if kind == 'keras3' else 'efficientnetb3_notop.h5')
  if kind == 'keras3':
    reference.save_weights(path)
  else:
    # The format of the file that Keras distributes.
    import h5py
    from keras.src.legacy.saving import legacy_h5_format
    with h5py.File(path, 'w') as file:
      legacy_h5_format.save_weights_to_hdf5_group(file, reference)
  model = build(config, seed=0)
  names = load_imagenet(model, path)
  assert len(names) == len(reference.weights) - 1  # all but the normalisation's count
  image = np.random.default_rng(1).integers(0, 256, (1, 300, 300, 3), dtype=np.uint8)
  embedding = np.random.default_rng(2).normal(size=(1, 512)).astype(np.float32)  # no effect: FiLM is zero
  image_encoder = model.image_encoder
  # Keras divides by sqrt(std) in its ImageNet network only; undo it here.
  normalized = image_encoder.normalize(jnp.asarray(image)) * np.sqrt([0.229, 0.224, 0.225]).astype(np.float32)
  graphdef, state = nnx.split(image_encoder.encoder)
  ours = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x, jnp.asarray(embedding)))(state, normalized)
  theirs = np.asarray(reference(image.astype(np.float32), training=False))
  assert ours.shape == theirs.shape == (1, 9, 9, 1536)
  np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


def test_bad_input(tmp_path):
  model = abstract(RT1Config(layers=1))
  with pytest.raises(FileNotFoundError, match='efficientnetb3_notop'):
    load_imagenet(model, tmp_path / 'nothing.h5')
  (tmp_path / 'wrong.h5').write_bytes(b'no weights')
  with pytest.raises(ValueError, match='does not hold'):
    load_imagenet(model, tmp_path / 'wrong.h5')
  model.config = dataclasses.replace(CONFIG, encoder=EfficientNetConfig(width=1.0))
  with pytest.raises(ValueError, match='EfficientNet-B3'):
    load_imagenet(model, tmp_path / 'wrong.h5')
