"""The convolutional stem, alone and in front of a ViT."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rtjax.models.backbones.conv_stem import ConvStem, ConvStemConfig
from rtjax.models.backbones.vit import ViT, ViTConfig

STEM = ConvStemConfig(patch=2, width=3, blocks=1)
VIT = ViTConfig(image_size=(12, 8), patch=4, width=16, layers=2, heads=2, mlp_width=24)


def normalised(x):
  """Normalise each channel over its image [B, h, w, C]."""
  return (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-3)


def gelu(x):
  return jax.nn.gelu(x, approximate=False)


def linear_of_patches(linear, x, side):
  """Apply a linear map to each patch of side x side, one by one."""
  rows, columns = x.shape[1] // side, x.shape[2] // side
  return jnp.stack([jnp.stack([
      linear(x[:, side * i:side * (i + 1), side * j:side * (j + 1)].reshape(len(x), -1)) for j in range(columns)], 1)
      for i in range(rows)], 1)


def test_feature_map_and_tokens():
  rngs = nnx.Rngs(0)
  stem = ConvStem(STEM, rngs=rngs)
  vit = ViT(VIT, stem=stem, rngs=rngs)
  assert stem.patch_embedding.kernel.shape == (12, 3) and vit.patch_embedding.kernel.shape == (12, 16)
  x = jax.random.uniform(jax.random.key(0), (2, 12, 8, 3), minval=-1)
  features = gelu(normalised(linear_of_patches(stem.patch_embedding, x, 2)))
  convolved = jax.lax.conv_general_dilated(features, stem.blocks[0].kernel[...], (1, 1), 'SAME',
                                           dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  features = features + gelu(normalised(convolved))
  np.testing.assert_allclose(vit.features(x), features, atol=1e-5)
  tokens = normalised(linear_of_patches(vit.patch_embedding, features, 2)).reshape(2, -1, 16)
  np.testing.assert_allclose(vit.embed(vit.features(x))[:, 1:], tokens + vit.positions[1:], atol=1e-4)


@pytest.mark.parametrize('config, message', [
    ({'patch': -1}, r'stem\.patch is -1'), ({'patch': 2, 'width': 0}, r'stem\.patch is 2 with stem\.width 0'),
    ({'blocks': 1}, r'stem\.blocks is 1 with stem\.patch 0'), ({'patch': 2, 'blocks': -1}, r'stem\.blocks is -1')])
def test_bad_configurations(config, message):
  with pytest.raises(ValueError, match=message):
    ConvStemConfig(**config)
