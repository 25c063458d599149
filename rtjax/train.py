"""Command to train a policy: python train.py PRESET --data FOLDER_OR_NAME ..."""
import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rtjax import configs, packaged
from rtjax.runtime import cli, interrupt

# Late imports: neither the usage nor the list of presets waits for JAX.
if TYPE_CHECKING:
  from tyro.constructors import PrimitiveConstructorSpec, PrimitiveTypeInfo

  from rtjax.training.config import TrainConfig

USAGE = """Train a robotics transformer on robot episodes, RLDS or LeRobot.

  python train.py --list                               list the presets
  python train.py PRESET --help                        show the settings of a preset
  python train.py PRESET --help-verbose                explain them in full, and show the rarely changed ones
  python train.py PRESET --data FOLDER_OR_NAME ...     train; the same command again resumes
  python train.py PRESET --data ... --optimizer.learning-rate 3e-4
                                                       change a setting
  python train.py PRESET --compile-only v5e:4x4        show memory and time on devices that are not there
"""


def parse(arguments: Sequence[str]) -> 'TrainConfig':
  """Return the configuration of a command line.

  Raises:
    SystemExit: after a help text or a flag that cannot be parsed.
    ValueError: there is no preset of this name.
  """
  if not arguments or arguments[0] in ('-h', '--help'):
    print(USAGE.replace('python train.py', cli.command('train')))
    sys.exit(0)
  if arguments[0] == '--list':
    width = max(map(len, configs.names()))
    print('\n'.join(f'{name:<{width}}  {configs.summary(name)}' for name in configs.names()))
    sys.exit(0)
  name, *flags = arguments
  if name.startswith('-'):
    raise ValueError(f'the preset comes first, got {name!r}: python train.py PRESET {name} ..., with one of '
                     f'{", ".join(configs.names())}.')
  import tyro

  from rtjax.runtime import short_help
  from rtjax.training.config import TrainConfig
  default = dataclasses.replace(configs.get(name), output=f'checkpoints/{name}')
  wants_help = '--help' in flags or '-h' in flags
  rules = short_help.registry(wants_help)
  rules.primitive_rule(_action_spec)
  summary = configs.summary(name) + (' Defaults are in parentheses.' if wants_help else '')
  return tyro.cli(TrainConfig, default=default, args=flags, prog=f'{cli.prog("train.py")} {name}', description=summary,
                  compact_help=True, registry=rules, config=(tyro.conf.AvoidSubcommands, tyro.conf.SuppressFixed))


def _action_spec(info: 'PrimitiveTypeInfo') -> 'PrimitiveConstructorSpec | None':
  """Return the rule that makes an ActionSpec one flag."""
  from tyro.constructors import PrimitiveConstructorSpec

  from rtjax import actions
  if info.type is not actions.ActionSpec:
    return None
  name_of = {spec: name for name, spec in actions.SPECS.items()}
  return PrimitiveConstructorSpec(
      nargs=1, metavar='{' + ','.join(actions.SPECS) + ',FILE.json}',
      instance_from_str=lambda words: actions.get(words[0]),
      is_instance=lambda value: isinstance(value, actions.ActionSpec),
      str_from_instance=lambda spec: [name_of.get(spec, 'own')])


def with_recorded_actions(config: 'TrainConfig', arguments: Sequence[str]) -> 'TrainConfig':
  """Return the configuration with its data's ActionSpec, unless a flag sets one."""
  if any(word.replace('_', '-').split('=')[0] == '--model.action-spec' for word in arguments):
    return config
  from rtjax import data  # late: --help need not wait for TensorFlow
  try:
    spec = data.recorded_spec(config.data)
  except OSError:  # missing data is reported by the run, after the checks of its settings
    return config
  if spec is None or spec == config.model.action_spec:
    return config
  print(f'Actions as the data describes them, --model.action-spec takes others: {spec.describe()}')
  model: Any = config.model  # all are dataclasses
  return dataclasses.replace(config, model=dataclasses.replace(model, action_spec=spec))


def main() -> None:
  config = parse(sys.argv[1:])
  if config.compile_only:
    _compile_only(config)
    return
  _require_paths(config)
  interrupt.keep(lambda: _kept(pathlib.Path(config.output).expanduser()))
  if sources := (*config.data, *config.text_data):
    cli.note(f'Loading {", ".join(sources)}')
  config = with_recorded_actions(config, sys.argv[1:])
  from rtjax import checkpoints  # late: --help need not wait for it
  from rtjax.training import loop
  try:
    outcome = loop.train(config)
  except (loop.TrainingError, checkpoints.CheckpointError) as error:
    print(f'error: {error}', file=sys.stderr)
    raise SystemExit(1) from None
  if not outcome.finished:
    print(f'Stopped and saved at step {outcome.step} of {config.steps}. The same command resumes there.')
    raise SystemExit(128 + outcome.signal if outcome.signal else 1)
  print(f'Results: {outcome.run}/metrics.jsonl')
  if config.logging.tensorboard:
    print(f'Curves: tensorboard --logdir {outcome.run}')
  if outcome.best_step is not None:
    print(f'Best validation loss: {outcome.run}/checkpoints/{outcome.best_step}')
  if config.data:
    print(f'Next: {cli.command("eval")} {outcome.run} --dataset {config.data[0]}')
  else:
    print(f'Next, for actions: the same preset with --data ROBOT_EPISODES --init.weights {outcome.run} and another '
          '--output')


def _compile_only(config: 'TrainConfig') -> None:
  """Print memory and work of a step.

  The exit status is 1 where it does not fit.
  """
  from rtjax.training import compile_only  # late: --help need not wait for it
  cli.note(f'Compiling for {config.compile_only}, some minutes for a large network')
  report = compile_only.analyse(config, config.compile_only)
  print(compile_only.describe(report))
  if not report.fits:
    raise SystemExit(1)


def _require_paths(config: 'TrainConfig') -> None:
  """Require that paths exist, before TensorFlow and the network load."""
  from rtjax.data import names
  from rtjax.data.config import NO_VECTORS
  from rtjax.language import instructions
  for dataset in config.data:
    names.require(dataset)
  for source in config.text_data:
    names.require_image_text(source)
  init = config.init
  for path in (init.weights, config.distillation.teacher if config.distillation else ''):
    if path not in ('', 'imagenet'):  # which Keras downloads
      packaged.require(path)
  for path, what in ((init.backbone, 'backbone'), (init.vision, 'image encoder'), (init.text, 'language model'),
                     (init.tokenizer, 'tokenizer')):
    if path:
      cli.require_weights(path, what)
  if config.pipeline.encoder not in ('', NO_VECTORS):
    instructions.require(config.pipeline.encoder)


def _kept(run: pathlib.Path) -> str:
  """Describe the newest checkpoint of an interrupted run."""
  steps = [int(path.name) for path in run.glob('checkpoints/*') if path.name.isdigit()]
  if not steps:
    return 'There is no checkpoint yet; the same command starts again.'
  return f'The checkpoint of step {max(steps)} is kept in {run}; the same command resumes there.'


if __name__ == '__main__':
  cli.run(main)
