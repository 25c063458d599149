"""OpenGL renderer of MuJoCo (MUJOCO_GL=egl or osmesa without a display)."""
from collections.abc import Sequence

import mujoco
import numpy as np

from rtjax.envs import GL_HELP


class GL:
  """Renderer of images of (height, width), with an OpenGL context per episode.

  Args:
    image_size: (height, width).
    hidden_groups: groups of geoms that images do not show.
  """

  def __init__(self, image_size: tuple[int, int], hidden_groups: Sequence[int] = ()):
    self._size = image_size
    self._options = mujoco.MjvOption()
    for group in hidden_groups:
      self._options.geomgroup[group] = 0
    self._renderer: mujoco.Renderer | None = None

  def start(self, model: mujoco.MjModel) -> None:
    self.close()
    try:
      self._renderer = mujoco.Renderer(model, *self._size)
    except Exception as error:  # the errors of MuJoCo and its GL bindings share no class
      raise RuntimeError(f"renderer 'gl': OpenGL does not start here ({error}). {GL_HELP} The tabletop's renderer "
                         "'rays' needs none of them.") from error

  def render(self, data: mujoco.MjData, camera: str) -> np.ndarray:
    assert self._renderer is not None, 'start comes first'
    self._renderer.update_scene(data, camera, self._options)
    return self._renderer.render()

  def close(self) -> None:
    if self._renderer is not None:
      self._renderer.close()
      self._renderer = None
