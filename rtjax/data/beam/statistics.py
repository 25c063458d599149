"""Statistics of a dataset, read on many workers.

A worker reads whole files, and passes on totals and the numbers of the episodes, which are a thousandth of the images.
"""
import dataclasses
import functools
import json
import operator
from collections.abc import Iterable
from typing import Any

from etils import epath

from rtjax.actions import ActionSpec
from rtjax.data.beam import runner
from rtjax.data.config import DataConfig
from rtjax.data.episode import EpisodeSource, numbers_of
from rtjax.data.episodes import passes
from rtjax.data.episodes.open import open_numbers
from rtjax.data.episodes.passes import Far, Near, Numbers, Ordered, Totals
from rtjax.data.records import Chunk


def compute(beam: str, name: str, config: DataConfig, spec: ActionSpec) -> dict[str, Any]:
  """Return the statistics of a dataset, those of one machine.

  Args:
    beam: a runner and its flags.
    name, config, spec: see `rtjax.data.statistics`.
  """
  with runner.temporary_folder(beam) as folder:
    result = folder / 'statistics.json'
    runner.run(beam, functools.partial(_Work(name, config, spec).add_to, result))
    return json.loads(result.read_text())


@functools.lru_cache(4)
def _open(name: str, config: DataConfig, spec: ActionSpec) -> EpisodeSource:
  return open_numbers(name, config, spec)


@dataclasses.dataclass(frozen=True)
class _Work:
  """Steps of the pipeline, each of which runs on a worker."""
  name: str
  config: DataConfig
  spec: ActionSpec

  @property
  def dataset(self) -> EpisodeSource:
    return _open(self.name, self.config, self.spec)

  def add_to(self, result: epath.Path, pipeline: Any) -> None:
    """Add the three passes of `passes`, and write their result."""
    import apache_beam as beam
    files = self.dataset.chunks(self.dataset.num_records)
    read = pipeline | beam.Create(files) | beam.Reshuffle() | beam.Map(self.read)
    numbers = read | 'Numbers' >> beam.Map(operator.itemgetter(1)) | 'Numbers of all' >> beam.Reshuffle()

    def single(part: Any) -> Any:
      return beam.pvalue.AsSingleton(part)

    def once(label: str, step: Any, *parts: Any) -> Any:
      return single(pipeline | f'Once: {label}' >> beam.Create([step]) | label >> beam.Map(_apply, *parts))

    total = single(read | beam.Map(operator.itemgetter(0)) | 'Totals' >> beam.CombineGlobally(_sum))
    near = once('Ranks', self.near, total)
    close = single(numbers | beam.Map(passes.close, near) | 'Close' >> beam.CombineGlobally(passes.merge_close))
    ordered = once('Order', passes.ordered, total, near, close)
    far = single(numbers | beam.Map(self.far, total, ordered) | 'Far' >> beam.CombineGlobally(passes.merge_far))
    once('Entry', functools.partial(self.write, result), total, ordered, far, once('Digest', self.digest))

  def read(self, file: Chunk) -> tuple[Totals, Numbers]:
    episodes = list(self.dataset.read([file]))
    runner.count('episodes', len(episodes))
    return passes.totals(episodes, self.spec), numbers_of(episodes)

  def near(self, total: Totals) -> Near:
    return passes.near(total, self.dataset)

  def far(self, numbers: Numbers, total: Totals, ordered: Ordered) -> Far:
    return passes.far(numbers, total, ordered, self.dataset)

  def digest(self) -> str:
    return self.dataset.digest()

  def write(self, result: epath.Path, total: Totals, ordered: Ordered, far: Far, digest: str) -> None:
    result.write_text(json.dumps(passes.entry(self.dataset, self.spec, total, ordered, far, digest)))


def _apply(step: Any, *parts: Any) -> Any:
  return step(*parts)


def _sum(parts: Iterable[Totals]) -> Totals:
  return functools.reduce(operator.add, parts, Totals())
