"""Start of pipelines: runner and flags, failures, counts."""
import contextlib
import functools
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from etils import epath

from rtjax.runtime.cli import UserError
from rtjax.runtime.suggest import did_you_mean

RUNNERS = ('DirectRunner', 'DataflowRunner', 'FlinkRunner', 'SparkRunner', 'PortableRunner', 'PrismRunner')
_NAMESPACE = 'rtjax'


def options(beam: str) -> Any:
  """Return Beam's options.

  Args:
    beam: a runner and its flags.

  Raises:
    UserError: Apache Beam is not installed.
    ValueError: the runner or one of its flags is unknown.
  """
  runner, *flags = shlex.split(beam)
  if runner not in RUNNERS:
    raise ValueError(f'--beam is {beam!r}: unknown runner {runner!r}, expected one of {", ".join(RUNNERS)}, then its '
                     f'flags.{did_you_mean(runner, RUNNERS)}')
  try:
    from apache_beam.options import pipeline_options
  except ImportError as error:
    raise UserError(f"--beam needs Apache Beam ({error}): pip install 'rtjax[beam]', in an environment of its own."
                    ) from error
  # Beam's DirectRunner would first download a program, Prism. This is the runner that it falls back to.
  name = 'apache_beam.runners.portability.fn_api_runner.FnApiRunner' if runner == 'DirectRunner' else runner
  found = pipeline_options.PipelineOptions([f'--runner={name}', *flags])
  found.view_as(pipeline_options.TypeOptions).pipeline_type_check = False  # arrays and mappings are not its types
  known = found.get_all_options()
  unknown = sorted(found.get_all_options(retain_unknown_options=True).keys() - known.keys())
  if unknown and runner in ('DirectRunner', 'DataflowRunner'):  # job servers of the others have further flags
    raise ValueError(f'--beam is {beam!r}: Apache Beam has no flag --{unknown[0]}.{did_you_mean(unknown[0], known)}')
  return found


def run(beam: str, build: Callable[[Any], object]) -> None:
  """Run the pipeline that `build` adds to, and print its counts.

  Raises:
    UserError: it failed; the message names the item.
  """
  chosen = options(beam)
  import apache_beam
  with failures(beam):
    pipeline = apache_beam.Pipeline(options=chosen)
    build(pipeline)
    result = pipeline.run()
    result.wait_until_finish()
  print_counts(result)


def each(beam: str, work: Callable[..., object], items: Sequence[tuple[int, int]], unit: str) -> None:
  """Call `work(first, end)` on a worker for each item."""
  import apache_beam
  run(beam, lambda pipeline: pipeline | apache_beam.Create(items) | apache_beam.Reshuffle() | (
      unit >> apache_beam.Map(functools.partial(_call, work, unit))))


def elements(items: Sequence[Any], make: Callable[[Any], Iterator[Any]], unit: str) -> Any:
  """Return the transform that gives what `make` yields for each item."""
  import apache_beam
  return apache_beam.Create(items) | apache_beam.Reshuffle() | (
      unit >> apache_beam.FlatMap(functools.partial(_counted, make, unit)))


def count(name: str, number: int = 1) -> None:
  """Add to a count of the pipeline."""
  from apache_beam.metrics import Metrics
  Metrics.counter(_NAMESPACE, name).inc(number)


def print_counts(result: Any) -> None:
  """Print the counts of a pipeline."""
  from apache_beam.metrics import MetricsFilter
  counters = result.metrics().query(MetricsFilter().with_namespace(_NAMESPACE))['counters']
  print('Apache Beam: ' + ', '.join(f'{counter.committed} {counter.key.metric.name}' for counter in sorted(
      counters, key=lambda counter: counter.key.metric.name)))


@contextlib.contextmanager
def failures(beam: str) -> Iterator[None]:
  """Turn errors of a pipeline into UserError; does nothing without a runner.

  Workers that are processes of this machine get its modules.
  """
  if not beam:
    yield
    return
  before = os.environ.get('PYTHONPATH')
  os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, sys.path))  # that of a script has its folder
  try:
    yield
  except Exception as error:  # runners raise their own, with the worker's traceback as text
    lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
    raise UserError(f'{beam.split()[0]} stopped: {lines[-1].strip()}') from error
  finally:
    if before is None:
      del os.environ['PYTHONPATH']
    else:
      os.environ['PYTHONPATH'] = before


@contextlib.contextmanager
def temporary_folder(beam: str) -> Iterator[epath.Path]:
  """Create a folder that the workers reach; removed at the end.

  It lies in the runner's --temp_location; without that flag on this machine.
  """
  chosen = options(beam)
  from apache_beam.options import pipeline_options
  place = chosen.view_as(pipeline_options.GoogleCloudOptions).temp_location
  if place is None:
    if beam.split()[0] != 'DirectRunner':
      raise ValueError(f'--beam is {beam!r}: add --temp_location FOLDER, which all workers reach, such as '
                       'gs://BUCKET/tmp.')
    place = tempfile.gettempdir()
  folder = epath.Path(place) / f'rtjax-{os.urandom(8).hex()}'
  folder.mkdir(parents=True)
  try:
    yield folder
  finally:
    folder.rmtree()


def _call(work: Callable[..., object], unit: str, item: tuple[int, int]) -> None:
  first, end = item
  try:
    work(first, end)
  except Exception as error:
    raise RuntimeError(f'{unit} {first} to {end - 1}: {type(error).__name__}: {error}') from error
  count(unit, end - first)


def _counted(make: Callable[[Any], Iterator[Any]], unit: str, item: Any) -> Iterator[Any]:
  for made in make(item):
    yield made
    count(unit)
