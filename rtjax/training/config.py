"""Configuration of a training run, in groups."""
import dataclasses
import math
import pathlib
import re
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from rtjax import models
from rtjax.data.augment import AugmentConfig
from rtjax.data.config import DataConfig, ImageTextConfig
from rtjax.models import PolicyConfig, RT1Config
from rtjax.runtime import limits, serialization
from rtjax.runtime.flags import Hidden
from rtjax.training.optimizer import OptimizerConfig

serialization.register(PolicyConfig, models.config_to_json, models.config_from_json)


def _require(fields: dict[str, tuple[float, float]]) -> None:
  """Raise ValueError for a field below its least value."""
  for name, (value, least) in fields.items():
    if not least <= value < math.inf:
      raise ValueError(f'{name} is {value}, it must be at least {least}.')


@dataclasses.dataclass(frozen=True)
class InitConfig:
  """Weights that a run starts from."""
  weights: str = ''
  """Run of rtjax, released RT-1, or 'imagenet' or an .h5 of it for the image encoder."""
  prune: bool = False
  """Remove the least important heads and layers of these weights, down to the model's."""

  backbone: ClassVar[str] = ''
  vision: ClassVar[str] = ''
  text: ClassVar[str] = ''
  tokenizer: ClassVar[str] = ''
  trainable: ClassVar[str] = 'full'


@dataclasses.dataclass(frozen=True)
class VisionLanguageInit:
  """Weights and tokenizer that a run of a vision-language model starts from."""
  weights: str = ''
  """Run, checkpoint or export to safetensors of rtjax."""
  backbone: str = ''
  """Hugging Face folder of a PaliGemma or T5Gemma 2. Its config.json replaces model.backbone."""
  vision: str = ''
  """Hugging Face folder of a ViT or SigLIP, for the vision part of the backbone."""
  text: str = ''
  """Hugging Face folder of a T5, for the text part of the backbone."""
  tokenizer: str = ''
  """SentencePiece file, tokenizer.json or their folder; empty: that of the weights, or the package's own."""
  trainable: Literal['full', 'decoder', 'heads', 'lora'] = 'full'
  """Trained parameters; 'decoder' freezes vision and encoder, 'heads' the backbone; 'lora' trains adapters."""

  prune: ClassVar[bool] = False

  def __post_init__(self) -> None:
    if self.backbone and (self.vision or self.text):
      raise ValueError('init.backbone is a complete backbone, and init.vision or init.text is given as well: give the '
                       'whole or its parts.')


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """Image-text pairs to train on, alone or beside `data`."""
  data: tuple[str, ...] = ()
  """Folders of JSONL or tar shards, folders or names of TFDS datasets."""
  batch_size: int = 32
  """Pairs per step beside the windows; without `data`, the run's batch size holds."""
  loss_weight: float = 0.1
  """Weight of the text loss beside the action loss."""
  pipeline: ImageTextConfig = ImageTextConfig()  # noqa: RUF009 (frozen)
  """Settings of the image-text pipeline."""

  def __post_init__(self) -> None:
    _require({'text.batch_size': (self.batch_size, 1), 'text.loss_weight': (self.loss_weight, 0)})


@dataclasses.dataclass(frozen=True)
class DistillationConfig:
  """Learning from a larger network with the same window and actions."""
  teacher: str = ''
  """Weights of the teacher, as for `init.weights`; empty: none."""
  weight: float = 0.5
  """Share of the teacher's probabilities in the targets, beside the recorded token."""

  def __post_init__(self) -> None:
    if not 0 <= self.weight <= 1:
      raise ValueError(f'distillation.weight is {self.weight}, expected 0 (recorded tokens alone) to 1 (the teacher '
                       'alone).')


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """Checkpoints in OUTPUT/checkpoints."""
  every: int = 1000
  """Steps between two checkpoints."""
  keep: int = 2
  """Newest checkpoints to keep, besides the one with the best validation loss."""
  verify: bool = True
  """Compare checksums before a run resumes."""

  def __post_init__(self) -> None:
    _require({'checkpoints.every': (self.every, 1), 'checkpoints.keep': (self.keep, 2)})


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
  """Passes over the held-out split."""
  every: int = 1000
  """Steps between two passes; 0 = never."""
  batches: int = 0
  """Batches of a pass; 0 = the complete split."""

  def __post_init__(self) -> None:
    _require({'validation.every': (self.every, 0), 'validation.batches': (self.batches, 0)})


@dataclasses.dataclass(frozen=True)
class LoggingConfig:
  """Metrics; OUTPUT/metrics.jsonl always has them."""
  every: int = 10
  """Steps between two rows of metrics, each an average since the previous one."""
  tensorboard: bool = True
  """Write curves to OUTPUT/tensorboard."""
  wandb: str = ''
  """Weights & Biases project to report to; empty = none."""
  profile: Hidden[int] = 0
  """Steps to trace to OUTPUT/profile, for TensorBoard (with xprof) and ui.perfetto.dev; 0 = none. The fourth step after
  the start is the first one."""

  def __post_init__(self) -> None:
    _require({'logging.every': (self.every, 1), 'logging.profile': (self.profile, 0)})


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Layout of the devices; -1 takes all that are left."""
  data: int = -1
  """Devices that split the batch."""
  fsdp: int = 1
  """Devices that split the batch and the parameters."""
  tensor: int = 1
  """Devices that split attention heads and wide layers."""
  distributed: str = ''
  """For several hosts: 'auto' (TPU pods, Slurm) or HOST:PORT,COUNT,INDEX; all must reach `output`."""
  timeout: Hidden[int] = 20
  """Seconds without a sign of life of a process, after which the others end."""

  def __post_init__(self) -> None:
    _require({'mesh.timeout': (self.timeout, 1)})

  @property
  def shape(self) -> tuple[int, int, int]:
    return self.data, self.fsdp, self.tensor


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """A training run."""
  data: tuple[str, ...] = ()
  """Datasets to train on: folders, gs:// folders or TFDS names."""
  output: str = 'checkpoints/run'
  """Folder of the run; training resumes from its checkpoints."""
  steps: int = 100_000
  """Updates of the parameters in the complete run."""
  batch_size: int = 256
  """Windows per step, over all devices."""
  grad_accum_steps: int = 1
  """Parts of a batch, computed one after the other to save memory."""
  seed: int = 0
  """Seed of the initial weights, the order of the data, dropout and augmentation."""
  compile_only: Hidden[str] = ''
  """Devices to compile for, not to train on: v5e:4x4, v5p:2x2x4, cpu:8."""
  non_finite: Literal['stop', 'skip'] = 'stop'
  """Reaction to a NaN or infinite loss or gradient; skipped steps are counted."""
  init: InitConfig | VisionLanguageInit = InitConfig()
  """Weights to start from."""
  text: TextConfig | None = None
  """Image-text pairs, for models that generate text."""
  distillation: DistillationConfig | None = None
  """Learning from a teacher, for models that support it."""
  checkpoints: CheckpointConfig = CheckpointConfig()
  """Writing of checkpoints."""
  validation: ValidationConfig = ValidationConfig()
  """Passes over the held-out split."""
  logging: LoggingConfig = LoggingConfig()
  """Destinations of the metrics."""
  mesh: MeshConfig = MeshConfig()
  """Layout of the devices."""
  model: PolicyConfig = dataclasses.field(default_factory=RT1Config)
  """The network; the preset chooses its type."""
  pipeline: DataConfig = dataclasses.field(default_factory=DataConfig)
  """Settings of the input pipeline."""
  augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
  """Augmentation of images and actions."""
  optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
  """Optimizer and learning rate."""

  def __post_init__(self) -> None:
    _require({'steps': (self.steps, 1), 'batch_size': (self.batch_size, 1),
              'grad_accum_steps': (self.grad_accum_steps, 1)})
    if self.init.prune and not self.init.weights:
      raise ValueError('init.prune is set without init.weights: name the weights to remove heads and layers from.')
    if self.text and not self.model.generates_text:
      raise ValueError('text is set, and this model learns actions alone: leave it out, or train RT-2.')
    if self.distillation and not self.model.supports_distillation:
      raise ValueError('distillation is set, and this model does not support it: leave it out, or train RT-1.')
    known = ['full', *self.model.partitions]
    if self.init.trainable not in known:
      hint = ' For adapters, set --model.lora.rank 8.' if self.init.trainable == 'lora' else ''
      raise ValueError(f'init.trainable is {self.init.trainable!r}, expected one of {known} for this model.{hint}')

  @property
  def text_data(self) -> tuple[str, ...]:
    """Sources of image-text pairs; empty without any."""
    return self.text.data if self.text else ()

  @property
  def is_trainable(self) -> Callable[[str], bool] | None:
    """Function from a parameter's name to whether it trains; None: all do."""
    if self.init.trainable == 'full':
      return None
    pattern = re.compile(self.model.partitions[self.init.trainable])
    return lambda name: bool(pattern.search(name))


# Fields and groups that may differ when a run resumes: the parameters do not depend on them, or the loop compares them
# with the checkpoint: datasets by content, since they may lie at other paths, and steps, which may grow.
FREE = ('output', 'data', 'text.data', 'steps', 'compile_only', 'checkpoints', 'validation', 'logging', 'mesh',
        'pipeline.validation_split', 'pipeline.cache_dir', 'pipeline.threads', 'text.pipeline.validation_split',
        'text.pipeline.threads')


def check_same_run(stored: dict[str, Any], config: TrainConfig, folder: pathlib.Path) -> dict[str, Any]:
  """Refuse to resume a run with another configuration.

  A setting that the run lacks, since an older version wrote it, counts as its default.

  Args:
    stored: JSON of the run's configuration.

  Returns:
    The settings that the run lacks and the parameters depend on, with their defaults.

  Raises:
    ValueError: lists the settings that differ, or are unknown.
  """
  complete = serialization.to_json(serialization.from_json(stored, TrainConfig))
  added = {name: value for name, value in serialization.missing(stored, complete).items() if not _is_free(name)}
  before, now = serialization.flat(complete), serialization.flat(serialization.to_json(config))
  missing = 'not set'
  differing = [f'{name}: {limits.short(before.get(name, missing))} there{" (default)" * (name in added)}, '
               f'{limits.short(now.get(name, missing))} now' for name in sorted(before.keys() | now.keys())
               if before.get(name) != now.get(name) and not _is_free(name)]
  if differing:
    raise ValueError(f'{folder} holds a run with another configuration:\n  ' + '\n  '.join(differing) +
                     '\nTo resume it, use its settings. To start a new run, give another --output '
                     f'(with --init.weights {folder} it starts from these weights).')
  return added


def _is_free(name: str) -> bool:
  return any(f'{name}.'.startswith(f'{free}.') for free in FREE)
