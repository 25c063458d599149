"""Renderers of a scene, by name."""
from collections.abc import Callable
from typing import Protocol

import mujoco
import numpy as np

from rtjax.envs import require_known


class Renderer(Protocol):
  """Renderer of images of one size."""

  def start(self, model: mujoco.MjModel) -> None:
    """Prepare for the model of a new episode."""

  def render(self, data: mujoco.MjData, camera: str) -> np.ndarray:
    """Render the view of `camera`: uint8 [H, W, 3]."""

  def close(self) -> None:
    """Release resources."""


def _rays(image_size: tuple[int, int]) -> Renderer:
  from rtjax.envs.tabletop.rays import Rays
  return Rays(image_size)


def _gl(image_size: tuple[int, int]) -> Renderer:
  from rtjax.envs.tabletop.gl import GL
  return GL(image_size)


class NoRenderer:
  """Black images at no cost, for uses that read the state alone."""

  def __init__(self, image_size: tuple[int, int]):
    self._black = np.zeros((*image_size, 3), np.uint8)

  def start(self, model: mujoco.MjModel) -> None:
    pass

  def render(self, data: mujoco.MjData, camera: str) -> np.ndarray:
    return self._black

  def close(self) -> None:
    pass


RENDERERS: dict[str, Callable[[tuple[int, int]], Renderer]] = {'gl': _gl, 'none': NoRenderer, 'rays': _rays}


def make_renderer(name: str, image_size: tuple[int, int]) -> Renderer:
  """Create a renderer of RENDERERS for images of (height, width)."""
  require_known('renderer', name, list(RENDERERS))
  return RENDERERS[name](image_size)
