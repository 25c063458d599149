"""Recording of scripted experts in simulators."""
import abc
import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from rtjax.language.instructions import hashed_ngrams

Step = dict[str, Any]


def encode_jpeg(image: np.ndarray) -> bytes:
  """Encode a uint8 image [H, W, 3] with full colour resolution."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, format='JPEG', quality=95, subsampling=0)
  return buffer.getvalue()


class Recorder(abc.ABC):
  """Base of recorders, which define `record`.

  Args:
    env: environment with an expert (docs/add_an_environment.md).
    images: keys of the stored images in its observations.
  """

  def __init__(self, env: Any, images: Sequence[str] = ('image',)):
    self._env, self._images = env.unwrapped, images

  @abc.abstractmethod
  def record(self, number: int) -> dict[str, Any]:
    """Record an episode.

    Returns:
      {'steps': [...], 'episode_metadata': {...}}, images as JPEG bytes.
    """

  def record_range(self, first: int, end: int) -> list[dict[str, Any]]:
    """Record episodes [first, end), and close the environment."""
    with contextlib.closing(self):
      return [self.record(number) for number in range(first, end)]

  def close(self) -> None:
    self._env.close()

  def _follow_expert(self, start: tuple[dict[str, Any], dict[str, Any]],
                     disturb: Callable[[np.ndarray], np.ndarray]) -> tuple[list[Step], dict[str, Any]]:
    """Let the expert act until the episode ends.

    Args:
      start: observation and info of `reset`.
      disturb: returns the action to execute.

    Returns:
      Steps of the layout `builder.step_features`, with the expert's actions, and the last info.
    """
    observation, info = start
    expert, instruction = self._env.expert(), observation['instruction']
    embedding = hashed_ngrams(instruction)
    steps: list[Step] = []
    ended = info['success']
    while not ended:
      action = np.asarray(expert(self._env.state), np.float32)
      stored = {key: encode_jpeg(observation[key]) for key in self._images} | {'state': observation['proprioception']}
      observation, _, terminated, truncated, info = self._env.step(disturb(action))
      ended = terminated or truncated
      steps.append({
          'observation': stored, 'action': action, 'reward': np.float32(info['success']), 'discount': np.float32(1),
          'language_instruction': instruction, 'language_embedding': embedding,
          'is_first': not steps, 'is_last': ended, 'is_terminal': terminated})
    return steps, info
