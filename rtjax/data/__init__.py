"""Input pipeline: robot episodes and image-text pairs to shuffled batches.

The streams of `episodes` yield batches as dicts of NumPy arrays (B windows, T frames, F actions per frame, A numbers
of an action, E instruction embedding, S state size):

    images          uint8   [B, T, H, W, 3]  decoded; zero where padded; [B, T, views, H, W, 3] if views are configured
    frame_mask      bool    [B, T]           True for real frames, False for padding
    instruction     float32 [B, T, E]        embedding of the instruction; zero where padded
    proprioception  float32 [B, T, S]        if configured
    actions         float32 [B, T, F, A]     the action f steps after frame t; zero where there is none
    action_mask     bool    [B, T, F]        True where the action counts in the loss
    waypoints       float32 [B, T, 3]        if configured
    instructions    str     [B] (object)     text of the newest frame's instruction
    episodes, steps int64, int32 [B]         number of the episode in its split, and the step of the newest frame

The last three stay on the host: `to_batch` gives the typed batch without them. A batch keeps its contents while it, or
anything made over its memory, is referenced; afterwards later batches reuse the memory.

    rlds/ lerobot/        readers of episodes, and the writer of the latter
    episodes/ image_text/ two kinds of data, each with its stream
    convert/              robot logs to RLDS or LeRobot
    generation/           datasets recorded in simulators, by the scripts under data/
    beam/                 conversion, recording and statistics on many machines
    episode stream mixture batching records windows images ...     shared by them

TensorFlow is imported when the first of the functions that read data is used.
"""
import importlib
from typing import TYPE_CHECKING, Any

from rtjax.data.config import DataConfig
from rtjax.data.rlds.adapters import Adapter, register
from rtjax.data.windows import WindowConfig, to_batch

if TYPE_CHECKING:
  from rtjax.data.episodes.chunks import action_chunks
  from rtjax.data.episodes.recorded_spec import recorded_spec
  from rtjax.data.episodes.statistics import statistics
  from rtjax.data.episodes.stream import TrainingStream, validation_batches

__all__ = ['Adapter', 'DataConfig', 'TrainingStream', 'WindowConfig', 'action_chunks', 'recorded_spec', 'register',
           'statistics', 'to_batch', 'validation_batches']

_LAZY = {'TrainingStream': 'episodes.stream', 'validation_batches': 'episodes.stream',
         'statistics': 'episodes.statistics', 'recorded_spec': 'episodes.recorded_spec',
         'action_chunks': 'episodes.chunks'}


def __getattr__(name: str) -> Any:
  if name not in _LAZY:
    raise AttributeError(f'module {__name__} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_LAZY[name]}'), name)
