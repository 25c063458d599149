"""Conversion to LeRobot: of checked logs, and of datasets."""
import pathlib
from collections.abc import Callable, Iterator, Sequence

from rtjax.actions import ActionSpec
from rtjax.data.convert.episode import read_episode, without_idle
from rtjax.data.convert.images import pixels
from rtjax.data.convert.logs import Log
from rtjax.data.convert.options import Options
from rtjax.data.episode import Episode, EpisodeSource
from rtjax.data.episodes.open import open_dataset
from rtjax.data.episodes.recorded_spec import recorded_spec
from rtjax.data.language import NoVectors
from rtjax.data.lerobot.write import Recording, write
from rtjax.runtime.progress import Progress


def dataset_folder(options: Options, name: str) -> pathlib.Path:
  """Return the folder of the dataset.

  Raises:
    ValueError: it exists already.
  """
  path = pathlib.Path(options.out).expanduser() / name
  if path.exists():
    raise ValueError(f'{path} exists already: remove it, or choose another --name or --out.')
  return path


def write_logs(parts: dict[str, list[Log]], options: Options, spec: ActionSpec,
               done: Callable[[], object]) -> pathlib.Path:
  """Write checked logs and return the dataset's folder."""
  name = options.dataset_name()
  path = dataset_folder(options, name)
  splits = {split: (_of_log(log, options, spec, done) for log in logs) for split, logs in parts.items()}
  write(path, name, splits, spec, options.rate(spec), options.frames)
  return path


def write_dataset(options: Options) -> pathlib.Path:
  """Write a dataset of any kind; show progress; return the new folder."""
  source = str(options.logs)
  spec = recorded_spec([source]) or options.spec()
  rate, opened = options.rate(spec), _open_splits(source, spec)
  name = options.name or opened[0].adapter.name
  path = dataset_folder(options, name)
  progress = Progress('Writing', sum(dataset.num_records for dataset in opened), 'episodes')

  def recordings(dataset: EpisodeSource) -> Iterator[Recording]:
    decode = dataset.decoder(None)
    for episode in dataset.read_all():
      if len(episode):
        yield Recording(episode.actions, episode.proprioception, _texts(episode), {
            camera: decode(episode, range(len(episode)), view) for view, camera in enumerate(dataset.views)})
      progress.advance()

  with progress:
    write(path, name, {dataset.split: recordings(dataset) for dataset in opened}, spec, rate, options.frames)
  return path


def _open_splits(source: str, spec: ActionSpec) -> Sequence[EpisodeSource]:
  """Open all splits with an episode, with all cameras."""
  def opened(split: str, **chosen: object) -> EpisodeSource:
    return open_dataset(source, split, spec, proprioception=None, vectors=NoVectors(), **chosen)

  first = opened('all', images=False)
  return [opened(split, views=first.cameras) for split, size in first.split_sizes.items() if size]


def _texts(episode: Episode) -> list[str]:
  return [str(text) for text in episode.instructions]


def _of_log(log: Log, options: Options, spec: ActionSpec, done: Callable[[], object]) -> Recording:
  episode = read_episode(log, options, spec)
  if options.drop_idle:
    episode = without_idle(episode, options.spec())
  frames = {camera: (pixels(image, options.bgr) for image in images)
            for camera, images in {'image': episode.images, **episode.views}.items()}
  done()
  return Recording(episode.actions, episode.state, episode.instructions, frames)
