"""What is exported: the policy step, a pure function of weights, history and what the robot sees and is told."""
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export

from rtjax import models
from rtjax.models import parameters, vocabulary
from rtjax.models.layers.resize import resize_with_pad

Weights = dict[str, Any]  # name -> array, or {'int8': array, 'scale': array} (quantize.py)


class Step:
  """The policy step of `model`, which computes in float32.

    (weights, history, images uint8 [B, H, W, 3], embeddings float32 [B, E], proprioception float32 [B, P])
      -> {'history': as it came, 'logits': float32 [B, K*F, V], 'tokens': int32 [B, K*F], 'action': float32 [B, F, A]}

  A network that does not look at the robot's state takes no `proprioception`.

  Args:
    model: the network.
    picture: (height, width) of the pictures that it will be given.
    image_size: as in `Policy`: what pictures are brought to first, aspect kept.
    embedding_id: which instruction encoder made the embeddings that it was trained on.

  Attributes:
    weights: {name: array}, the names those of `rtjax.models.parameters`.
    history: {name: array}, what a robot starts from, with a leading axis of 1.
    inputs: names of the inputs after the history.
  """

  def __init__(self, model: models.Model, picture: tuple[int, int], image_size: tuple[int, int] | None = None,
               embedding_id: str = ''):
    self.config = model.config
    self.weights: Weights = {name: np.asarray(value) for name, value in parameters.named(model).items()}
    self.picture, self.image_size, self.embedding_id = picture, image_size, embedding_id
    self.inputs = ['images', 'embeddings', *['proprioception'] * (self.config.proprioception_size > 0)]
    self._vocabulary = getattr(model, 'vocabulary', None)
    self._graphdef, self._state = nnx.split(models.abstract(self.config))
    blank = jax.jit(lambda weights: self._model(weights).empty_history(1))(self.weights)
    leaves, self._history_tree = jax.tree_util.tree_flatten_with_path(blank)
    self.history = {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf) for path, leaf in leaves}

  def __call__(self, weights: Weights, history: dict[str, Any], images: Any, embeddings: Any,
               proprioception: Any = None) -> dict[str, Any]:
    if self.image_size is not None and self.picture != self.image_size:
      # As in `Policy`: truncated to uint8.
      images = resize_with_pad(images.astype(jnp.float32), self.image_size).astype(jnp.uint8)
    before = jax.tree.unflatten(self._history_tree, [history[name] for name in self.history])
    after, logits = self._model(weights).advance(before, images, embeddings, proprioception)
    spec = self.config.action_spec
    tokens = jnp.argmax(logits, -1).astype(jnp.int32)
    action = spec.decode(logits.reshape(-1, self.config.horizon, spec.num_tokens, spec.vocab_size),
                         self.config.decoding)
    return {'history': dict(zip(self.history, jax.tree.leaves(after), strict=True)),
            'logits': logits, 'tokens': tokens, 'action': action}

  @property
  def metadata(self) -> dict[str, Any]:
    """JSON-able: what a program that runs the step may want to know."""
    held = {'vocabulary': vocabulary.stored(self._vocabulary)} if self._vocabulary else {}
    return held | {'config': self.config.to_dict(), 'embedding_id': self.embedding_id, 'image_size': self.image_size,
                   'picture': self.picture}

  def shapes(self, batch: Any) -> tuple[Any, ...]:
    """`jax.ShapeDtypeStruct`s of the history and of each of `inputs`, for a batch that may be symbolic."""
    history = {name: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype) for name, leaf in self.history.items()}
    images = jax.ShapeDtypeStruct((batch, *self.picture, 3), jnp.uint8)
    sizes = (self.config.embedding_size, self.config.proprioception_size)[:len(self.inputs) - 1]
    return history, images, *(jax.ShapeDtypeStruct((batch, size), jnp.float32) for size in sizes)

  def _model(self, weights: Weights) -> models.Model:
    flat = [(path, variable.replace(dequantize(weights['/'.join(map(str, path))])))
            for path, variable in nnx.to_flat_state(self._state)]
    return nnx.merge(self._graphdef, nnx.from_flat_state(flat))


def dequantize(weight: Any) -> Any:
  if not isinstance(weight, dict):
    return jnp.asarray(weight)
  # NumPy would multiply here and now, and the exported program would hold the float32 product.
  return jnp.asarray(weight['int8']).astype(jnp.float32) * weight['scale']


def save_history(step: Step, folder: pathlib.Path) -> None:
  """Writes history.npz: what a robot starts from, with a leading axis of 1."""
  arrays: dict[str, Any] = step.history
  np.savez(folder / 'history.npz', **arrays)


def symbolic_batch() -> Any:
  return export.symbolic_shape('b')[0]
