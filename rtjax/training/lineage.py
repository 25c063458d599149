"""What a run of a vision-language model starts from: its vocabulary, its parts, and the run before it."""
import os
import pathlib
from typing import TYPE_CHECKING, Any

from rtjax.models import Model, T5Config, parameters, vocabulary
from rtjax.training import checkpoint, initialize
from rtjax.training.config import TrainConfig

if TYPE_CHECKING:
  from rtjax.language.tokenizer import Tokenizer


def open_vocabulary(config: TrainConfig) -> 'Tokenizer':
  """The vocabulary of a run: of its own checkpoints, of `config.vocabulary`, or of what it starts from, in this order;
  or else the package's own.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is another than that of `config.init_from`, whose embeddings it would mix up.
  """
  from rtjax.language.tokenizer import Tokenizer
  if kept := _vocabulary(config.output):
    return kept
  theirs = _vocabulary(config.init_from)
  if not config.vocabulary and theirs:
    return theirs
  path = config.vocabulary or config.text_from
  if config.text_from and not config.vocabulary and not (pathlib.Path(path).expanduser() / 'spiece.model').is_file():
    raise FileNotFoundError(f'--text-from {path} holds no spiece.model, without which its embeddings mean nothing. '
                            'Name its vocabulary with --vocabulary.')
  found = Tokenizer.load(path) if path else Tokenizer()
  if theirs and theirs.id != found.id:
    raise ValueError(f'--init-from {config.init_from} was trained on the vocabulary {theirs.id!r}, --vocabulary is '
                     f'{found.id!r}: the same ids would be other words. Leave --vocabulary out.')
  return found


def describe(config: TrainConfig) -> dict[str, Any]:
  """What a checkpoint remembers of what its run started from, JSON-able; of an earlier run (stage 1), its data too."""
  parts = {name: getattr(config, name) for name in ('init_from', 'vision_from', 'text_from') if getattr(config, name)}
  if not config.init_from or not checkpoint.is_checkpoint(config.init_from):
    return parts
  before = checkpoint.read_metadata(config.init_from)
  kept = {'step': before['step'], 'metrics': before.get('metrics'), 'origin': before.get('origin')}
  return parts | kept | {name: before['train'].get(name) for name in ('data', 'image_text', 'steps', 'batch_size')}


def _vocabulary(path: str) -> 'Tokenizer | None':
  """That of a checkpoint; None where there is none."""
  if not path or not checkpoint.is_checkpoint(path):
    return None
  kept = checkpoint.read_metadata(path).get('vocabulary')
  return vocabulary.restore(kept) if kept else None


def fill_part(model: Model, part: str, folder: str | os.PathLike) -> str:
  """Takes over, in place, a part of `model` from a Hugging Face folder.

  Args:
    part: 'vision' or 'text'.

  Returns:
    What was loaded, what is new and what did not fit, for people to read.

  Raises:
    FileNotFoundError, ValueError: as `load_huggingface`; or nothing at all fits.
  """
  from rtjax.pretrained import huggingface
  config, values, ignored = huggingface.read(folder)
  if isinstance(config, T5Config) != (part == 'text'):
    raise ValueError(f'--{part}-from {folder}: it holds a {type(config).__name__.removesuffix("Config")}, expected '
                     f'{"a T5" if part == "text" else "a ViT or SigLIP"}.')
  theirs = {f'{part}/{name}': value for name, value in values.items()}
  ours = parameters.named(model)
  fitting = {name: value for name, value in theirs.items() if name in ours and ours[name].shape == value.shape}
  if not fitting:
    raise ValueError(f'--{part}-from {folder}: none of its {len(theirs)} variables fits the {part} part of this '
                     f'network. Give model.{part} the sizes of its config.json.')
  parameters.assign(model, ours | fitting)
  part_of_ours = {name: value for name, value in ours.items() if name.startswith(f'{part}/')}
  unused = f'\n  of no use here: {", ".join(sorted(ignored))}' if ignored else ''
  return f'{part} started from {folder}:\n' + initialize.summary(part_of_ours, theirs, fitting) + unused
