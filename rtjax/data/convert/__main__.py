"""Convert robot logs to RLDS or LeRobot.

    python -m rtjax.data.convert LOGS --name my_robot
"""
import pathlib

import tyro
from rich.console import Console

from rtjax.data import names
from rtjax.data.convert.options import Options
from rtjax.language import instructions
from rtjax.runtime import cli, interrupt
from rtjax.runtime.progress import Progress


def main() -> None:
  options = tyro.cli(Options, prog=cli.prog('python -m rtjax.data.convert'))
  if not options.logs.exists():
    raise FileNotFoundError(f'LOGS is {options.logs}: no such file or folder.')
  instructions.require(options.encoder)
  interrupt.keep('Nothing was written; the same command starts again.')
  # Imported here so that --help does not wait for TensorFlow.
  try:
    from rtjax.data import bounds
    from rtjax.data.convert import validate, write
    from rtjax.data.convert.episode import find_logs
    if options.to == 'lerobot':
      from rtjax.data.convert import lerobot
    from rtjax.data.tf import tfds
  except ModuleNotFoundError as error:
    raise ValueError(f'{error}: the converter needs pip install rtjax[data].') from error
  tfds.disable_progress_bar()  # the converter shows its own
  if names.is_dataset(str(options.logs)):
    _convert_dataset(options)
    return
  spec, encoder = options.spec(), instructions.open_encoder(options.encoder)
  if not options.check:  # fails before the work starts
    if options.to == 'lerobot':
      lerobot.dataset_folder(options, options.dataset_name())
      options.rate(spec)
    else:
      write.dataset_folder(options)
  found = find_logs(options)
  if options.beam:
    report = validate.validate_on_workers(len(found), options, spec)
  else:
    with Progress('Checking', len(found), 'episodes') as progress:
      report = validate.validate(found, options, spec, progress.advance)
  print(f'{len(found)} episodes: {report.summary()}')
  if report.findings:
    Console().print(report.table())
  print(f'{report.count("error")} errors, {report.count("warning")} warnings')
  if options.bounds == 'quantiles' and any(report.lengths.values()):
    spec = bounds.from_quantiles(spec, report.actions)
    print(f'Bounds of these logs, check the units: {spec.describe()}')
  if report.count('error'):
    print('Nothing was written: fix the logs or the options, or move the episodes away.')
    raise SystemExit(1)
  found = [log for log in found if log.name in report.lengths]
  if not found:
    raise ValueError(f'{options.logs}: no episode has two steps, nothing was written.')
  if options.check:
    print('No errors: the same command without --check writes the dataset.')
    return
  parts = write.split_episodes(found, options.val_share)
  path: pathlib.PurePath
  with Progress('Writing', len(found), 'episodes') as progress:
    if options.to == 'lerobot':
      path = lerobot.write_logs(parts, options, spec, progress.advance)
    else:
      path = write.write_dataset(parts, options, spec, report, encoder, progress.advance)
  print(', '.join(f'{len(part)} episodes in {name}' for name, part in parts.items()))
  print(f'Train on it with: --data {path}' + write.view_flags(options, report))


def _convert_dataset(options: Options) -> None:
  """Write a dataset as a LeRobot one."""
  if options.to != 'lerobot':
    raise ValueError(f'LOGS is {options.logs}, a dataset already: train on it with --data, or convert it with '
                     '--to lerobot.')
  from rtjax.data.convert import lerobot
  path = lerobot.write_dataset(options)
  print(f'Train on it with: --data {path}')


if __name__ == '__main__':
  cli.run(main)
