"""The exported policy step, a pure function of weights, cache and inputs."""
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export

import rtjax
from rtjax import models
from rtjax.checkpoints import PolicyMetadata
from rtjax.models import PolicyModel, parameters
from rtjax.models.layers.resize import fit_images
from rtjax.observation import observe

Weights = dict[str, Any]  # name -> array, or {'int8': array, 'scale': array} (quantize.py)


class Step:
  """One step of a model that computes in float32.

    (weights, cache, images, embeddings or prompt, proprioception) -> {'cache', 'logits', 'tokens', 'action'}

    images          uint8 [B, H, W, 3], of `camera_size`
    embeddings      float32 [B, E]; for models that read prompts `prompt`, token ids int32 [B, L]
    proprioception  float32 [B, S], only for models that use it
    cache           {name: array}, the 'cache' of the last step
    logits          float32 [B, K*F, V];  tokens int32 [B, K*F]
                    with an action codec float32 [B, N, V + 1] and int32 [B, N], the last class after the end
    action          float32 [B, F, A]; NaN where a robot's logits are not finite, so that nothing moves on garbage

  Args:
    model: the model.
    camera_size: height and width of the images to be given.
    metadata: its image size and encoder id.

  Attributes:
    weights: {name: array} as the model stores them, equal layers stacked.
    cache: {name: array} before the first frame, with a leading axis of 1.
    inputs: names of the inputs after the cache.
  """

  def __init__(self, model: PolicyModel, camera_size: tuple[int, int], metadata: PolicyMetadata | None = None):
    self.config, self.camera_size, self._metadata = model.config, camera_size, metadata or PolicyMetadata()
    self.weights: Weights = {name: np.asarray(value) for name, value in parameters.stored(model).items()}
    self.inputs = ['images', 'prompt' if self.config.reads_prompts else 'embeddings',
                   *['proprioception'] * (self.config.proprioception_size > 0)]
    self._tokenizer = model.tokenizer
    self._graphdef, self._state = nnx.split(models.abstract(self.config))
    first = jax.jit(lambda weights: self._model(weights).init_cache(1))(self.weights)
    leaves, self._cache_tree = jax.tree_util.tree_flatten_with_path(first)
    self.cache = {parameters.path_name(path): np.asarray(leaf) for path, leaf in leaves}

  def __call__(self, weights: Weights, cache: dict[str, Any], images: Any, instruction: Any,
               proprioception: Any = None) -> dict[str, Any]:
    before = jax.tree.unflatten(self._cache_tree, [cache[name] for name in self.cache])
    states = None if proprioception is None else proprioception[:, None]
    observation = observe(fit_images(images, self._metadata.input_size())[:, None], instruction, states)
    after, logits = self._model(weights).step(before, observation)
    tokens = jnp.argmax(logits, -1).astype(jnp.int32)
    action = self.config.decode(logits)
    finite = jnp.all(jnp.abs(logits) < jnp.inf, (1, 2))[:, None, None]
    action = jnp.where(finite, action, jnp.nan)
    return {'cache': dict(zip(self.cache, jax.tree.leaves(after), strict=True)),
            'logits': logits, 'tokens': tokens, 'action': action}

  @property
  def metadata(self) -> dict[str, Any]:
    """JSON with configuration, encoder id, image sizes, inputs and tokenizer."""
    language = {'tokenizer': self._tokenizer.to_json()} if self._tokenizer else {}
    return language | {
        'rtjax': rtjax.__version__, 'config': models.config_to_json(self.config),
        'embedding_id': self._metadata.embedding_id, 'image_size': self._metadata.input_size(),
        'recorded_sizes': self._metadata.recorded_sizes(), 'camera_size': self.camera_size,
        'observation': self._layout()}

  def shapes(self, batch: Any) -> tuple[Any, ...]:
    """Return shapes and types of the cache and of each input.

    Args:
      batch: batch size, may be symbolic.
    """
    cache = {name: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype) for name, leaf in self.cache.items()}
    c = self.config
    shapes = [((*self.camera_size, 3), np.uint8), ((c.instruction_size,), c.instruction_dtype),
              ((c.proprioception_size,), np.float32)][:len(self.inputs)]
    return cache, *(jax.ShapeDtypeStruct((batch, *shape), dtype) for shape, dtype in shapes)

  def _layout(self) -> dict[str, Any]:
    """Return type, shape and meaning of each input after the cache."""
    meanings = {'images': 'RGB, 0 to 255', 'embeddings': 'instruction, by the encoder embedding_id',
                'prompt': 'instruction, token ids of the tokenizer', 'proprioception': 'robot state, as recorded'}
    return {name: {'dtype': leaf.dtype.name, 'shape': ['B', *leaf.shape[1:]], 'meaning': meanings[name]}
            for name, leaf in zip(self.inputs, self.shapes(1)[1:], strict=True)}

  def _model(self, weights: Weights) -> PolicyModel:
    flat = [(path, variable.replace(dequantize(weights['/'.join(map(str, path))])))
            for path, variable in nnx.to_flat_state(self._state)]
    return nnx.merge(self._graphdef, nnx.from_flat_state(flat))


def dequantize(weight: Any) -> Any:
  """Return a weight as an array, in float32 if it is quantised."""
  if not isinstance(weight, dict):
    return jnp.asarray(weight)
  # NumPy would multiply at once, and the exported program would hold the float32 product.
  return jnp.asarray(weight['int8']).astype(jnp.float32) * weight['scale']


def save_cache(step: Step, folder: pathlib.Path) -> None:
  """Write cache.npz, the cache of one robot before the first frame."""
  arrays: dict[str, Any] = step.cache
  np.savez(folder / 'cache.npz', **arrays)


def symbolic_batch() -> Any:
  """Return a symbolic dimension for the batch."""
  return export.symbolic_shape('b')[0]
