"""Image and action augmentation on the device, inside the train step.

The official recipe pads each image with black, 20 rows and 50 columns on each side at 256x320, and crops the original
size at a random offset (robotics_transformer, film_efficientnet/preprocessors.py). `AugmentConfig()` is this recipe,
with an offset per example where the official code draws one for the whole batch. Frames of a window share all random
draws, so that only the scene moves within a window. Views of several cameras have separate offsets and share colours.
"""
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from rtjax.actions import ActionSpec
from rtjax.observation import Batch
from rtjax.runtime.flags import Hidden

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601 luma
_MIRRORED_POINT = np.array([1, -1, 1], np.float32)  # x forward, y to the robot's left, z up


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
  """Augmentations, drawn independently for each example.

  Attributes:
    crop: pad with black and crop at a random offset.
    shared_crop: one offset for the whole batch, as in the official code.
    flip: mirror half of the examples left to right, actions by `ActionSpec.mirror`, waypoints in y. Instructions keep
      their words: not for data that says 'left' or 'right', nor for several views: a mirrored scene swaps and moves the
      cameras. With waypoints the camera has to look along the robot's x axis.
    flip_proprioception: factor of each number of the robot state in a mirrored example: 1 or -1. For x y z roll pitch
      yaw gripper, seen along x: 1 -1 1 -1 1 -1 1.
    brightness: scale colours by a factor from [1 - x, 1 + x]; 0 is off, 1 the most.
    contrast: scale the distance from the mean grey, likewise.
    saturation: scale the distance from each pixel's grey, likewise.
    hue: turn the colours by up to this share of the colour circle, either way; 0 is off, 0.5 the most.
  """
  crop: bool = True
  shared_crop: Hidden[bool] = False
  flip: bool = False
  flip_proprioception: Hidden[tuple[float, ...]] = ()
  brightness: float = 0.0
  contrast: float = 0.0
  saturation: float = 0.0
  hue: float = 0.0

  def __post_init__(self) -> None:
    for name, most in (('brightness', 1.0), ('contrast', 1.0), ('saturation', 1.0), ('hue', 0.5)):
      value = getattr(self, name)
      if not 0 <= value <= most:
        raise ValueError(f'AugmentConfig: {name} is {value}, expected a number from 0 (off) to {most}.')

  @property
  def colour(self) -> bool:
    return any((self.brightness, self.contrast, self.saturation, self.hue))


def augment(batch: Batch, key: jax.Array, config: AugmentConfig, action_spec: ActionSpec) -> Batch:
  """Return an augmented copy of a batch of windows.

  The result depends on the key alone, not on the number of devices. Padded frames stay black.

  Args:
    batch: with robot windows; its text part is left as it is.
    key: a PRNG key, new for each step.
    config: static under jit.
    action_spec: defines the mirror image of an action.

  Returns:
    The batch with new images (still uint8: colours are rounded), actions and, if present, waypoints and proprioception.

  Raises:
    ValueError: flip is on and the mirror image of proprioception or of several views is undefined.
  """
  observation, actions, _ = batch.windows()
  _check_flip(batch, config)
  frame_mask = observation.frame_mask
  if frame_mask is None:
    frame_mask = jnp.ones(observation.images.shape[:2], bool)
  arrays: dict[str, Any] = {'images': observation.images, 'actions': actions, 'waypoints': batch.waypoints,
            'proprioception': observation.proprioception}
  shared_key, key = jax.random.split(key)
  keys = jax.random.split(key, len(observation.images))
  one = functools.partial(_augment_window, shared_key=shared_key, config=config, action_spec=action_spec)
  new = jax.vmap(one)({k: a for k, a in arrays.items() if a is not None}, frame_mask, keys)
  observation = dataclasses.replace(observation, images=new['images'], proprioception=new.get('proprioception'))
  return dataclasses.replace(batch, observation=observation, actions=new['actions'], waypoints=new.get('waypoints'))


def padding(height: int, width: int) -> tuple[int, int]:
  """Return rows and columns of black on each side.

  The official 20 and 50 at 256x320, in proportion for other sizes.
  """
  return round(height * 20 / 256), round(width * 50 / 320)


def crop(images: UInt8[Array, '*b H W C'], offset: Int[Array, '2']) -> UInt8[Array, '*b H W C']:
  """Crop the original size out of the padded images.

  Args:
    images: images that share the offset.
    offset: (y, x) of the top left corner in the padded image, from 0 to twice `padding`; the middle changes nothing.
  """
  *leading, height, width, _ = images.shape
  rows, columns = padding(height, width)
  padded = jnp.pad(images, [(0, 0)] * len(leading) + [(rows, rows), (columns, columns), (0, 0)])
  start: list[Any] = [0] * len(leading) + [offset[0], offset[1], 0]
  return jax.lax.dynamic_slice(padded, start, images.shape)


def _check_flip(batch: Batch, config: AugmentConfig) -> None:
  if not config.flip:
    return
  observation, *_ = batch.windows()
  size = 0 if observation.proprioception is None else observation.proprioception.shape[-1]
  if len(config.flip_proprioception) != size:
    raise ValueError(f'AugmentConfig: flip is on, and the batch has {size} numbers of proprioception, but '
                     f'flip_proprioception has {len(config.flip_proprioception)} factors. Give one per number.')
  views = observation.images.shape[2:-3]
  if views and views[0] > 1:
    raise ValueError(f'AugmentConfig: flip is on, but a step has {views[0]} views, whose images of a mirrored scene '
                     'are unknown. Turn flip off, or train on one view.')


def _augment_window(window: dict[str, Array], frame_mask: Any, key: Array, *, shared_key: Array,
                    config: AugmentConfig, action_spec: ActionSpec) -> dict[str, Array]:
  """Augment one window.

  Args:
    window: images [T, (views,) H, W, 3], actions [T, F, A], waypoints [T, 3], proprioception [T, S].
    frame_mask: bool [T].
    key: of this window.
    shared_key: of the batch, for `shared_crop`.
    config, action_spec: as in `augment`.
  """
  images = window['images']
  crop_key, flip_key, colour_key = jax.random.split(key, 3)
  if config.colour:  # before the crop, so that its borders stay black
    real = jnp.expand_dims(frame_mask, range(frame_mask.ndim, images.ndim))
    images = jnp.where(real, _jitter(images, colour_key, config), images)
  if config.crop:
    most = 2 * np.array(padding(*images.shape[-3:-1]))
    views = images.shape[1:-3]
    offsets = jax.random.randint(shared_key if config.shared_crop else crop_key, (*views, 2), 0, most + 1)
    images = jax.vmap(crop, (1, 0), 1)(images, offsets) if views else crop(images, offsets)
  window = window | {'images': images}
  if not config.flip:
    return window
  flip = jax.random.bernoulli(flip_key)
  mirror = {'images': lambda x: x[..., ::-1, :], 'actions': action_spec.mirror,
            'waypoints': lambda x: x * _MIRRORED_POINT,
            'proprioception': lambda x: x * np.array(config.flip_proprioception, np.float32)}
  return {name: jnp.where(flip, mirror[name](array), array) for name, array in window.items()}


def _jitter(images: UInt8[Array, 'T *views H W 3'], key: Array, config: AugmentConfig
            ) -> UInt8[Array, 'T *views H W 3']:
  """Change colours by a 3x3 matrix, and contrast about the mean grey."""
  draws = jax.random.uniform(key, (4,), minval=-1)
  brightness, contrast, saturation = 1 + draws[:3] * jnp.array([config.brightness, config.contrast, config.saturation])
  saturate = saturation * jnp.eye(3) + (1 - saturation) * _GREY
  colours = _hue_rotation(2 * jnp.pi * config.hue * draws[3]) @ saturate * brightness
  pixels = jnp.einsum('...c,dc->...d', images.astype(jnp.float32), colours)
  grey = (pixels @ _GREY).mean((-2, -1))[..., None, None, None]
  return jnp.clip(jnp.round(grey + contrast * (pixels - grey)), 0, 255).astype(jnp.uint8)


def _hue_rotation(angle: Float[Array, '']) -> Float[Array, '3 3']:
  """Rotation about the grey axis of the colour cube."""
  cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], np.float32) / np.sqrt(3).astype(np.float32)
  return jnp.cos(angle) * jnp.eye(3) + jnp.sin(angle) * cross + (1 - jnp.cos(angle)) / 3
