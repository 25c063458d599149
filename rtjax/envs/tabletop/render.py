"""Renderers of a scene, by name."""
import difflib
from collections.abc import Callable
from typing import Protocol

import mujoco
import numpy as np


class Renderer(Protocol):
  """Makes pictures of one size."""

  def start(self, model: mujoco.MjModel) -> None:
    """Prepares for the model of a new episode."""

  def render(self, data: mujoco.MjData, camera: str) -> np.ndarray:
    """What `camera` sees: uint8 [H, W, 3]."""

  def close(self) -> None:
    """Gives back what it holds."""


def _rays(image_size: tuple[int, int]) -> Renderer:
  from rtjax.envs.tabletop.rays import Rays
  return Rays(image_size)


def _gl(image_size: tuple[int, int]) -> Renderer:
  from rtjax.envs.tabletop.gl import GL
  return GL(image_size)


class NoPictures:
  """Black pictures that cost nothing, for those who look at the state alone."""

  def __init__(self, image_size: tuple[int, int]):
    self._black = np.zeros((*image_size, 3), np.uint8)

  def start(self, model: mujoco.MjModel) -> None:
    pass

  def render(self, data: mujoco.MjData, camera: str) -> np.ndarray:
    return self._black

  def close(self) -> None:
    pass


RENDERERS: dict[str, Callable[[tuple[int, int]], Renderer]] = {
    'rays': _rays, 'gl': _gl, 'none': NoPictures}


def make_renderer(name: str, image_size: tuple[int, int]) -> Renderer:
  """The renderer called `name`: one of RENDERERS."""
  if name not in RENDERERS:
    close = difflib.get_close_matches(name, RENDERERS, 1)
    raise ValueError(f'unknown renderer {name!r}, expected one of {sorted(RENDERERS)}.'
                     + (f' Did you mean {close[0]!r}?' if close else ''))
  return RENDERERS[name](image_size)
