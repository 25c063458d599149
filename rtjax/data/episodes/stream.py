"""Streams of batches of episodes, for training and validation."""
from collections.abc import Iterator, Sequence

from rtjax.actions import ActionSpec
from rtjax.data.batching import Arrays
from rtjax.data.config import DataConfig
from rtjax.data.episode import EpisodeSource
from rtjax.data.episodes.batches import WindowBatcher
from rtjax.data.episodes.open import open_dataset
from rtjax.data.language import open_vectors
from rtjax.data.mixture import ProcessShare
from rtjax.data.stream import Stream, ordered_batches
from rtjax.data.windows import Padding, WindowConfig


class TrainingStream(Stream):
  """Endless shuffled batches of this process's share of a mixture of datasets.

  The order is a function of seed, process_count and the config; each process has its own part of every dataset, dealt
  again for each epoch, and epochs of different datasets and processes need not end together. Close it when done, or use
  it in a `with` block.

  Args:
    datasets: folders, gs:// folders or TFDS names.
    config: settings of the pipeline.
    action_spec: fields and units of an action.
    window: T, frames of a window.
    horizon: F, actions per frame.
    batch_size: B, windows of a batch of this share.
    seed: of the order.
    padding: slots to pad in windows that are longer than the episode so far, 'front' or 'back'.
    process_index, process_count: share of this process.
    rows: those to decode and return of each batch, where several processes read one share; None: all.

  Raises:
    FileNotFoundError, ValueError: a dataset cannot be read with these settings. Errors of background threads are raised
      by `next`, which closes the stream.
  """

  def __init__(self, datasets: Sequence[str], config: DataConfig, action_spec: ActionSpec, *, window: int, horizon: int,
               batch_size: int, seed: int, padding: Padding = 'front', process_index: int = 0, process_count: int = 1,
               rows: range | None = None):
    rows = range(batch_size) if rows is None else rows
    window_config = WindowConfig(window, config.stride, horizon, config.padding_in_loss, padding)
    share = ProcessShare(seed, process_index, process_count)
    opened = _open(datasets, config, config.split, action_spec)
    weights = config.mixture_weights(list(datasets), [d.adapter.weight for d in opened])
    super().__init__(opened, weights, config.shuffle_episodes, window_config, share,
                     WindowBatcher(opened, config, window_config, action_spec, len(rows)), batch_size, rows,
                     {'window_stride': config.stride})


def validation_batches(datasets: Sequence[str], config: DataConfig, action_spec: ActionSpec, *, window: int,
                       horizon: int, batch_size: int, padding: Padding = 'front', process_index: int = 0,
                       process_count: int = 1) -> Iterator[Arrays]:
  """Yield every window of `config.validation_split` once, by dataset and episode.

  `stream.ordered_batches` describes the shares of several processes. The last batch is filled up with zeros whose
  action mask is False and whose episode is -1.
  """
  window_config = WindowConfig(window, config.stride, horizon, config.padding_in_loss, padding)
  share = ProcessShare(0, process_index, process_count)
  opened = _open(datasets, config, config.validation_split, action_spec)
  batcher = WindowBatcher(opened, config, window_config, action_spec, batch_size)
  return ordered_batches(opened, batcher, window_config, batch_size, share)


def _open(datasets: Sequence[str], config: DataConfig, split: str, action_spec: ActionSpec) -> list[EpisodeSource]:
  if isinstance(datasets, str) or not datasets:
    raise ValueError(f'datasets is {datasets!r}, expected a list of folders or TFDS names.')
  proprioception = config.proprioception or config.waypoints
  return [open_dataset(name, split, action_spec, views=config.views, camera=config.camera,
                       proprioception=proprioception, vectors=open_vectors(config.encoder),
                       drop_unlabelled=config.drop_unlabelled, rt1_x_grippers=config.rt1_x_grippers)
          for name in datasets]
