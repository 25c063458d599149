"""Statistics of actions, proprioception and instruction embeddings, cached on disk."""
import concurrent.futures
import functools
import hashlib
import inspect
import json
import os
import pathlib
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from rtjax.actions import ActionSpec
from rtjax.data.beam import statistics as beam_statistics
from rtjax.data.config import DataConfig
from rtjax.data.episode import EpisodeSource, numbers_of
from rtjax.data.episodes import passes
from rtjax.data.episodes.open import open_numbers
from rtjax.data.rlds import adapter as action_maps
from rtjax.runtime import serialization

# A larger share of clipped numbers in any dimension means that the bounds, or the units, are likely wrong.
_MAX_CLIPPED = 0.01
_SHOWN = 3


def statistics(datasets: Sequence[str], config: DataConfig, action_spec: ActionSpec,
               beam: str = '') -> dict[str, Any]:
  """Compute statistics of each dataset's `config.split`, JSON-able.

  Images are not decoded. The result is read from the cache folder if files, adapter and ActionSpec are unchanged.

  Args:
    beam: an Apache Beam runner and its flags, to read the episodes with; empty: this process reads them.

  Returns:
    {dataset as given: entry}. An entry holds
      'name', 'version', 'split', 'embedding_id', 'episodes', 'steps';
      'features', type and shape of each; 'records', a hash of all that is recorded;
      'unlabelled_episodes', 'unlabelled_steps': those without an instruction or with zero vectors, of which a warning
        reports; with `config.drop_unlabelled` the former are left out;
      'far': descriptions of numbers absurdly far from the others, of which a warning reports;
      'renderer': of a simulated dataset, else None; 'skills': those that it holds, empty if unknown;
      'image_size': [height, width], None where it varies;
      'action': 'names' [A] and, each [A] in the ActionSpec's units, 'mean', 'std', 'min', 'max', 'q01', 'q99', and
        'clipped', the share of the steps beyond the bounds or clipped by the adapter, and 'clipped_by_adapter';
      'proprioception': the same without names and clipped, or None;
      'instruction': 'mean' and 'std' of the instruction embeddings; None if not read.

  Raises:
    ValueError: an action, state or embedding is NaN, infinite or absurdly large; more than 1 % of a dimension is
      clipped and `config.allow_clipping` is False; or a dataset cannot be read.
  """
  result = {}
  for name in datasets:
    dataset = open_numbers(name, config, action_spec)
    compute = functools.partial(beam_statistics.compute, beam, name, config) if beam else (
        functools.partial(_compute, dataset))
    result[name] = _cached(dataset, config, action_spec, compute)
    _report_unlabelled(name, result[name], config)
    _report_far(name, result[name]['far'])
  if not config.allow_clipping:
    for name, entry in result.items():
      _check_clipping(name, entry, action_spec)
  return result


def _cached(dataset: EpisodeSource, config: DataConfig, spec: ActionSpec,
            compute: Callable[[ActionSpec], dict[str, Any]]) -> dict[str, Any]:
  base = pathlib.Path(config.cache_dir or os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
  file = (base if config.cache_dir else base / 'rtjax') / 'statistics' / f'{_content_hash(dataset, config, spec)}.json'
  try:
    return json.loads(file.read_text())
  except (OSError, ValueError):
    entry = compute(spec)
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile('w', dir=file.parent, delete=False) as temporary:
      json.dump(entry, temporary)
    os.replace(temporary.name, file)  # Other processes see all of it or nothing.
  except OSError as error:
    warnings.warn(f'the statistics of {dataset.name} cannot be stored in {file.parent} ({error}), so they will be '
                  'computed again next time. Set cache_dir to a writable folder.', stacklevel=3)
  return entry


def _content_hash(dataset: EpisodeSource, config: DataConfig, spec: ActionSpec) -> str:
  """Hash of files, adapter (with its modules' code), language settings and ActionSpec."""
  def stamp(file: str) -> tuple[str, int, float]:
    stat = epath.Path(file).stat()
    return epath.Path(file).name, stat.length, stat.mtime

  with concurrent.futures.ThreadPoolExecutor(16) as pool:  # A stat of a gs:// file takes a round trip.
    files = sorted(pool.map(stamp, dataset.files))
  adapter = dataset.adapter
  try:
    code = inspect.getsource(inspect.getmodule(adapter.action) or type(adapter.action))
  except (OSError, TypeError):  # typed in by hand
    code = repr(adapter.action)
  language = [dataset.embedding_id, adapter.instruction, config.drop_unlabelled, dataset.rt1_x_grippers]
  parts = [11, dataset.identity, files, dataset.image_size, adapter.name, adapter.proprioception, code,
           inspect.getsource(action_maps), language, serialization.to_json(spec)]
  return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _compute(dataset: EpisodeSource, spec: ActionSpec) -> dict[str, Any]:
  episodes = list(dataset.read_all())
  total, numbers = passes.totals(episodes, spec), numbers_of(episodes)
  near = passes.near(total, dataset)
  ordered = passes.ordered(total, near, passes.close(numbers, near))
  return passes.entry(dataset, spec, total, ordered, passes.far(numbers, total, ordered, dataset), dataset.digest())


def _report_unlabelled(name: str, entry: dict[str, Any], config: DataConfig) -> None:
  episodes, steps = entry['unlabelled_episodes'], entry['unlabelled_steps']
  if episodes and config.drop_unlabelled:
    warnings.warn(f'{name}: {episodes} episodes have no instruction, and are left out.', stacklevel=3)
  elif steps:
    whole = f', among them all of {episodes} of {entry["episodes"]} episodes' if episodes else ''
    advice = ('leave such episodes out: --pipeline.drop-unlabelled' if episodes else
              'convert the dataset again with an instruction for each step')
    warnings.warn(f'{name}: steps without an instruction, or with a vector of zeros: {steps} of {entry["steps"]}'
                  f'{whole}. A policy learns them as what to do without one; {advice}.', stacklevel=3)


def _report_far(name: str, far: list[str]) -> None:
  if far:
    more = f', and {len(far) - _SHOWN} other numbers' if len(far) > _SHOWN else ''
    warnings.warn(f'{name}: {"; ".join(far[:_SHOWN])}{more}. Absurd numbers distort means and ranges: fix or remove '
                  'their episodes.', stacklevel=3)


def _check_clipping(name: str, entry: dict[str, Any], spec: ActionSpec) -> None:
  low, high = spec.bounds
  action = entry['action']
  bad = [f'{action["names"][i]} {share:.1%} outside [{low[i]:g}, {high[i]:g}] '
         f'(quantiles {action["q01"][i]:g} and {action["q99"][i]:g})'
         + (f', {limited:.1%} beyond what the adapter maps to it' if limited else '')
         for i, (share, limited) in enumerate(zip(action['clipped'], action['clipped_by_adapter'], strict=True))
         if share > _MAX_CLIPPED]
  if bad:
    raise ValueError(f'{name}: the bounds of the ActionSpec clip more than 1 % of its steps: ' + '; '.join(bad)
                     + '. Check units and adapter. For a faster robot take wider bounds, --model.action-spec '
                     'FILE.json (`python -m rtjax.data.convert LOGS --bounds quantiles` finds those of your logs, and '
                     'docs/guides/your_robot.md shows the file); or clip them, --pipeline.allow-clipping.')
