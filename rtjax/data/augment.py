"""Augmentation on the device, inside the train step: shift, colour, mirror.

The official recipe pads each picture with black, 20 rows and 50 columns on each side at 256x320, and crops the
original size at a random place (robotics_transformer, film_efficientnet/preprocessors.py); `AugmentConfig()` is this,
with an offset per example where the official code draws one for the whole batch. Frames of a window always share what
was drawn, so that what moves in the window is the robot. Views of several cameras have an offset each, and share the
colours.
"""
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from rtjax.actions import ActionSpec

Batch = dict[str, Any]

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601 luma
_MIRRORED_POINT = np.array([1, -1, 1], np.float32)  # x forward, y to the robot's left, z up


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
  """What to vary, drawn anew for each example.

  Attributes:
    crop: pad with black and crop at a random offset.
    shared_crop: one offset for the whole batch, as the official code has it.
    flip: mirror half of the examples left to right, actions by `ActionSpec.mirror`, waypoints in y. Instructions keep
      their words: not for data that says 'left' or 'right', nor for several views: a mirrored scene swaps and moves the
      cameras. With waypoints the camera has to look along the robot's x axis.
    flip_proprioception: by what to multiply each number of the robot's state where it is mirrored: 1 or -1. x y z roll
      pitch yaw gripper seen along x: 1 -1 1 -1 1 -1 1.
    brightness, contrast, saturation: scale by a factor from [1 - x, 1 + x]; 0 is off, 1 the most.
    hue: turn the colours by up to this share of the colour circle, either way; 0 is off, 0.5 the most.
  """
  crop: bool = True
  shared_crop: bool = False
  flip: bool = False
  flip_proprioception: tuple[float, ...] = ()
  brightness: float = 0.0
  contrast: float = 0.0
  saturation: float = 0.0
  hue: float = 0.0

  def __post_init__(self):
    for name, most in (('brightness', 1.0), ('contrast', 1.0), ('saturation', 1.0), ('hue', 0.5)):
      value = getattr(self, name)
      if not 0 <= value <= most:
        raise ValueError(f'AugmentConfig: {name} is {value}, expected a number from 0 (off) to {most}.')

  @property
  def colour(self) -> bool:
    return any((self.brightness, self.contrast, self.saturation, self.hue))


def augment(batch: Batch, key: jax.Array, config: AugmentConfig, action_spec: ActionSpec) -> Batch:
  """A varied copy of a batch; the same for the same key, on any number of devices.

  Args:
    batch: at least images uint8 [B, T, H, W, 3] (of views [B, T, V, H, W, 3]), actions [B, T, F, A] and frames bool
      [B, T].
    key: a PRNG key, new for each step.
    config: what to vary; static under jit.
    action_spec: tells how actions mirror.

  Returns:
    The batch with images (still uint8: colours are rounded back), actions and, if there, waypoints and
    proprioception replaced. Padded frames stay black.
  """
  size = batch['proprioception'].shape[-1] if 'proprioception' in batch else 0
  if config.flip and len(config.flip_proprioception) != size:
    raise ValueError(f'AugmentConfig: flip is on, and the batch has {size} numbers of proprioception, but '
                     f'flip_proprioception says how {len(config.flip_proprioception)} of them mirror.')
  views = batch['images'].shape[2:-3]
  if config.flip and views and views[0] > 1:
    raise ValueError(f'AugmentConfig: flip is on, but a step has {views[0]} views, and how these would see a mirrored '
                     'scene is not known. Turn flip off, or train on one view.')
  shared_key, key = jax.random.split(key)
  keys = jax.random.split(key, len(batch['images']))
  vary = functools.partial(_vary, shared_key=shared_key, config=config, action_spec=action_spec)
  names = {'images', 'actions', 'waypoints', 'proprioception'}
  varied: Batch = {name: array for name, array in batch.items() if name in names}
  return batch | jax.vmap(vary)(varied, batch['frames'], keys)


def padding(height: int, width: int) -> tuple[int, int]:
  """Rows and columns of black on each side: the official 20 and 50 at 256x320, in proportion elsewhere."""
  return round(height * 20 / 256), round(width * 50 / 320)


def crop(images: UInt8[Array, '*b H W C'], offset: Int[Array, '2']) -> UInt8[Array, '*b H W C']:
  """The original size out of the padded frame.

  Args:
    images: pictures that share the offset.
    offset: (y, x) of the top left corner in the padded frame, from 0 to twice `padding`; the middle changes nothing.
  """
  *leading, height, width, _ = images.shape
  rows, columns = padding(height, width)
  padded = jnp.pad(images, [(0, 0)] * len(leading) + [(rows, rows), (columns, columns), (0, 0)])
  start: list[Any] = [0] * len(leading) + [offset[0], offset[1], 0]
  return jax.lax.dynamic_slice(padded, start, images.shape)


def _vary(window: Batch, frames: Array, key: Array, *, shared_key: Array, config: AugmentConfig,
          action_spec: ActionSpec) -> Batch:
  """One window: images [T, H, W, 3] or [T, V, H, W, 3], actions [T, F, A], waypoints [T, 3], and so on; frames [T]."""
  images = window['images']
  crop_key, flip_key, colour_key = jax.random.split(key, 3)
  if config.colour:  # before the crop, so that its borders stay black
    images = jnp.where(frames.reshape(-1, *[1] * (images.ndim - 1)), _jitter(images, colour_key, config), images)
  if config.crop:
    most = 2 * np.array(padding(*images.shape[-3:-1]))
    views = images.shape[1:-3]
    offsets = jax.random.randint(shared_key if config.shared_crop else crop_key, (*views, 2), 0, most + 1)
    images = jax.vmap(crop, (1, 0), 1)(images, offsets) if views else crop(images, offsets)
  if config.flip:
    flip = jax.random.bernoulli(flip_key)
    mirror = {'images': lambda x: x[..., ::-1, :], 'actions': action_spec.mirror,
              'waypoints': lambda x: x * _MIRRORED_POINT,
              'proprioception': lambda x: x * np.array(config.flip_proprioception, np.float32)}
    window = window | {'images': images}
    return {name: jnp.where(flip, mirror[name](array), array) for name, array in window.items()}
  return window | {'images': images}


def _jitter(images: UInt8[Array, 'T *V H W 3'], key: Array, config: AugmentConfig) -> UInt8[Array, 'T *V H W 3']:
  """All four are linear in the colours: one 3x3 matrix, and contrast about each picture's mean grey."""
  draws = jax.random.uniform(key, (4,), minval=-1)
  brightness, contrast, saturation = 1 + draws[:3] * jnp.array([config.brightness, config.contrast, config.saturation])
  saturate = saturation * jnp.eye(3) + (1 - saturation) * _GREY
  colours = _turn(2 * jnp.pi * config.hue * draws[3]) @ saturate * brightness
  pixels = jnp.einsum('...c,dc->...d', images.astype(jnp.float32), colours)
  grey = (pixels @ _GREY).mean((-2, -1))[..., None, None, None]
  return jnp.clip(jnp.round(grey + contrast * (pixels - grey)), 0, 255).astype(jnp.uint8)


def _turn(angle: Float[Array, '']) -> Float[Array, '3 3']:
  """Rotation about the grey axis of the colour cube: hues go round, greys stay."""
  cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], np.float32) / np.sqrt(3).astype(np.float32)
  return jnp.cos(angle) * jnp.eye(3) + jnp.sin(angle) * cross + (1 - jnp.cos(angle)) / 3
