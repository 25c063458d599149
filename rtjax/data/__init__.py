"""The input pipeline: RLDS episodes to shuffled batches of windows.

A batch is a dict of NumPy arrays (B windows, T frames, F actions per frame, A numbers per action):

    images          uint8   [B, T, H, W, 3]  decoded; zero where padded; [B, T, V, H, W, 3] if views are asked for
    embeddings      float32 [B, T, 512]      of the instruction; zero where padded
    actions         float32 [B, T, F, A]     the action f steps after frame t; zero where there is none
    mask            bool    [B, T, F]        True where the action counts in the loss
    frames          bool    [B, T]           True for real frames, False for padding
    proprioception  float32 [B, T, P]        only if asked for
    waypoints       float32 [B, T, 3]        only if asked for
    instructions    str     [B] (object)     of the window's newest frame
    episodes, steps int64, int32 [B]         number of the episode in its split, and the step of the newest frame

The last three stay on the host; `device_part` leaves them out. A batch stays as it is while it, or anything made over
its memory, is held; afterwards later batches get that memory. TensorFlow is imported when the first of the functions
that read data is used.
"""
import importlib
from typing import TYPE_CHECKING, Any

from rtjax.data.config import DataConfig
from rtjax.data.rlds.adapters import Adapter, register
from rtjax.data.windows import WindowConfig, device_part

if TYPE_CHECKING:
  from rtjax.data.rlds.statistics import statistics
  from rtjax.data.stream import TrainingStream, validation_batches

__all__ = ['Adapter', 'DataConfig', 'TrainingStream', 'WindowConfig', 'device_part', 'register', 'statistics',
           'validation_batches']

_LAZY = {'TrainingStream': 'stream', 'validation_batches': 'stream', 'statistics': 'rlds.statistics'}


def __getattr__(name: str) -> Any:
  if name not in _LAZY:
    raise AttributeError(f'module {__name__} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_LAZY[name]}'), name)
