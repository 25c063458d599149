"""What a run is: its configuration, and how the command line makes one."""
import dataclasses
import difflib
import json
import pathlib
import re
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal

import tyro

from rtjax import actions, configs
from rtjax.actions import ActionSpec
from rtjax.data.augment import AugmentConfig
from rtjax.data.config import DataConfig, ImageTextConfig
from rtjax.models import MultiviewConfig, RT1Config, RT2Config
from rtjax.training.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """A training run.

  Attributes:
    data: datasets to train on: folders, gs:// folders or TFDS names.
    output: the run's folder. If it holds checkpoints of this run, training resumes.
    init_from: weights to start from: a run or checkpoint of rtjax, or a released RT-1; 'imagenet' or Keras's
      efficientnetb3_notop.h5 for the image encoder alone.
    vision_from: Hugging Face folder of a ViT or SigLIP, to start the vision part of RT-2 from.
    text_from: Hugging Face folder of a T5, to start the text part of RT-2 from.
    vocabulary: of RT-2: a SentencePiece file, or a folder with a spiece.model; empty = that of `init_from` or of
      `text_from`, or else the package's own.
    image_text: pictures with texts to train RT-2 on, alone or beside `data`: folders of JSONL or tar shards, folders or
      names of TFDS datasets.
    image_text_batch_size: pairs of a picture and a text per step, beside the windows; without `data`, `batch_size` is.
    vqa_weight: what the texts' loss counts beside that of actions: L = L_action + vqa_weight * L_text.
    trainable: which parameters of RT-2 move: 'full'; 'decoder', with vision and encoder frozen; or 'lora', adapters of
      low rank (`model.lora`) and the action heads. Frozen ones need neither gradients nor optimizer state.
    prune: take out the least important heads and layers of `init_from`'s transformer, down to this model's numbers.
    teacher: distillation: weights, as for `init_from`, of a larger network with the same window and actions to learn
      from.
    teacher_weight: share of the teacher's probabilities in the targets; the rest is the recorded token.
    steps: updates of the parameters in the whole run.
    batch_size: windows per step, over all devices.
    micro_batches: parts that a batch is computed in, one after the other, where memory is short.
    seed: of the initial weights, the order of the data, dropout and augmentation.
    non_finite: what to do at a NaN or infinite loss or gradient: stop, or skip the step and count it.
    log_every: steps between two rows of metrics; each row averages the steps since the one before.
    validate_every: steps between two passes over the held-out split; 0 = never.
    validation_batches: batches of such a pass; 0 = the whole split.
    save_every: steps between two checkpoints. A checkpoint is judged where its step was validated.
    keep: newest checkpoints to keep; the best one is kept besides.
    mesh: devices along (data, fsdp, tensor); -1 = all that are left.
    distributed: processes on several hosts: 'auto' on TPU pods and Slurm, or HOST:PORT,COUNT,INDEX. All of them need
      to reach `output`.
    tensorboard: write curves to OUTPUT/tensorboard.
    wandb: Weights & Biases project to report to; empty = none.
    model: the network; the preset decides which one.
    pipeline: how the datasets become batches.
    image_text_pipeline: how pictures with texts do.
    augment: how images are varied.
    optimizer: how the parameters move.
  """
  data: tuple[str, ...] = ()
  output: str = 'checkpoints/run'
  init_from: str = ''
  vision_from: str = ''
  text_from: str = ''
  vocabulary: str = ''
  image_text: tuple[str, ...] = ()
  image_text_batch_size: int = 32
  vqa_weight: float = 0.1
  trainable: Literal['full', 'decoder', 'lora'] = 'full'
  prune: bool = False
  teacher: str = ''
  teacher_weight: float = 0.5
  steps: int = 100_000
  batch_size: int = 256
  micro_batches: int = 1
  seed: int = 0
  non_finite: Literal['stop', 'skip'] = 'stop'
  log_every: int = 10
  validate_every: int = 1000
  validation_batches: int = 0
  save_every: int = 1000
  keep: int = 2
  mesh: tuple[int, int, int] = (-1, 1, 1)
  distributed: str = ''
  tensorboard: bool = True
  wandb: str = ''
  model: RT1Config | MultiviewConfig | RT2Config = dataclasses.field(default_factory=RT1Config)
  pipeline: DataConfig = dataclasses.field(default_factory=DataConfig)
  image_text_pipeline: ImageTextConfig = dataclasses.field(default_factory=ImageTextConfig)
  augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
  optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)

  def __post_init__(self) -> None:
    for name, least in (('steps', 1), ('batch_size', 1), ('micro_batches', 1), ('log_every', 1), ('save_every', 1),
                        ('keep', 2), ('validate_every', 0), ('validation_batches', 0), ('image_text_batch_size', 1),
                        ('vqa_weight', 0)):
      if getattr(self, name) < least:
        raise ValueError(f'{name} is {getattr(self, name)}, it must be at least {least}.')
    if self.prune and not self.init_from:
      raise ValueError('prune is set without init_from: name the weights to take heads and layers out of.')
    if self.image_text and not isinstance(self.model, RT2Config):
      raise ValueError('image_text is for RT-2: this model learns actions alone.')
    if self.trainable != 'full' and self.trainable not in self._partitions:
      known = ['full', *self._partitions]
      raise ValueError(f'trainable is {self.trainable!r}, expected one of {known} for this model.')
    if self.trainable == 'lora' and isinstance(self.model, RT2Config) and not self.model.lora.rank:
      raise ValueError("trainable is 'lora' and the model has no adapters: say --model.lora.rank 8.")
    if not 0 <= self.teacher_weight <= 1:
      raise ValueError(f'teacher_weight is {self.teacher_weight}, expected 0 (labels alone) to 1 (the teacher alone).')

  @property
  def _partitions(self) -> dict[str, str]:
    return self.model.partitions if isinstance(self.model, RT2Config) else {}

  @property
  def trains(self) -> Callable[[str], bool] | None:
    """Tells by a parameter's name whether it moves; None: all do."""
    if self.trainable == 'full':
      return None
    pattern = re.compile(self._partitions[self.trainable])
    return lambda name: bool(pattern.search(name))

  def to_dict(self) -> dict[str, Any]:
    """JSON-able; what config.json and checkpoints hold."""
    return json.loads(json.dumps(dataclasses.asdict(self) | {'model': self.model.to_dict()}))


# What may differ when a run resumes: nothing that the parameters depend on.
FREE = ('output', 'log_every', 'validate_every', 'validation_batches', 'save_every', 'keep', 'mesh', 'distributed',
        'tensorboard', 'wandb', 'pipeline.validation_split', 'pipeline.cache_dir', 'pipeline.threads',
        'image_text_pipeline.validation_split', 'image_text_pipeline.threads')


def check_same_run(stored: dict[str, Any], config: TrainConfig, folder: pathlib.Path) -> None:
  """Refuses to resume a run with another configuration.

  Raises:
    ValueError: lists the fields that differ.
  """
  before, now = _flat(stored), _flat(config.to_dict())
  missing = 'not set'
  differing = [f'{name}: {before.get(name, missing)!r} there, {now.get(name, missing)!r} now'
               for name in sorted(before.keys() | now.keys()) if name not in FREE and before.get(name) != now.get(name)]
  if differing:
    raise ValueError(f'{folder} holds a run with another configuration:\n  ' + '\n  '.join(differing) +
                     '\nTo resume it, use its settings. To start a new run, give another --output '
                     f'(with --init-from {folder} it starts from these weights).')


def _flat(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  flat: dict[str, Any] = {}
  for key, value in tree.items():
    flat |= _flat(value, f'{prefix}{key}.') if isinstance(value, dict) else {f'{prefix}{key}': value}
  return flat


USAGE = """Train a robotics transformer on RLDS episodes.

  python train.py --list                               the presets, one line each
  python train.py PRESET --help                        every setting of a preset
  python train.py PRESET --data FOLDER_OR_NAME ...     train; the same command again resumes
  python train.py PRESET --data ... --optimizer.learning-rate 3e-4
"""


def parse(arguments: Sequence[str]) -> TrainConfig:
  """The configuration that a command line asks for; prints and exits where there is none to run.

  Raises:
    SystemExit: 0 after help, 2 after an error, which is printed.
  """
  if not arguments or arguments[0] in ('-h', '--help'):
    print(USAGE)
    sys.exit(0)
  if arguments[0] == '--list':
    width = max(map(len, configs.names()))
    print('\n'.join(f'{name:<{width}}  {configs.summary(name)}' for name in configs.names()))
    sys.exit(0)
  name, *rest = arguments
  if name.startswith('-'):
    exit_with(f'the preset comes first, got {name!r}: python train.py PRESET {name} ..., with one of '
              f'{", ".join(configs.names())}.')
  if name not in configs.names():
    close = difflib.get_close_matches(name, configs.names(), 1)
    hint = f' Did you mean {close[0]!r}?' if close else ''
    exit_with(f'unknown preset {name!r}, expected one of {", ".join(configs.names())}.{hint}')
  default = dataclasses.replace(configs.get(name), output=f'checkpoints/{name}')
  return tyro.cli(TrainConfig, default=default, args=rest, prog=f'train.py {name}', description=configs.summary(name),
                  registry=_registry(), config=(tyro.conf.AvoidSubcommands, tyro.conf.SuppressFixed))


def exit_with(message: str) -> None:
  print(f'error: {message}', file=sys.stderr)
  sys.exit(2)


def _registry() -> tyro.constructors.ConstructorRegistry:
  """Makes an ActionSpec one flag that takes its name, and leaves lists of settings to the presets."""
  registry = tyro.constructors.ConstructorRegistry()

  @registry.primitive_rule
  def action_spec(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    if info.type is not ActionSpec:
      return None
    name_of = {spec: name for name, spec in actions.SPECS.items()}
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1, metavar='{' + ','.join(actions.SPECS) + '}', instance_from_str=lambda words: actions.get(words[0]),
        is_instance=lambda value: isinstance(value, ActionSpec),
        str_from_instance=lambda spec: [name_of.get(spec, 'own')])

  @registry.struct_rule
  def list_of_settings(info: tyro.constructors.StructTypeInfo) -> tyro.constructors.StructConstructorSpec | None:
    inner = typing.get_args(info.type)
    if typing.get_origin(info.type) is not tuple or not dataclasses.is_dataclass(inner[0]):
      return None
    return tyro.constructors.StructConstructorSpec(instantiate=lambda: info.default, fields=())

  return registry
