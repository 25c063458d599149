"""One export from beginning to end: read, write, run back, compare, say."""
import dataclasses
import importlib
import json
import pathlib
import tempfile
from typing import Any

import rtjax
from rtjax import models
from rtjax.export import check
from rtjax.export.step import Step
from rtjax.models import RT2, RT1Config, RT2Config, parameters
from rtjax.models.layers import lora
from rtjax.policies.policy import Policy

# The released policies' camera.
_RELEASED_PICTURE = (256, 320)
_FOR_RT2 = ('stablehlo', 'safetensors')


def export(checkpoint: str, to: str, folder: pathlib.Path, *, int8: bool = False,
           picture: tuple[int, int] | None = None, dataset: str = '', split: str = 'val',
           frames: int = 200) -> check.Comparison:
  """Writes `checkpoint` into `folder` in the format `to`; the folder appears once the export has proved itself.

  Args: as in __main__.py.

  Raises:
    ValueError: the folder holds something or cannot be written, the format cannot express the network, or a float32
      export does not agree with the model.
    FileNotFoundError: no checkpoint, or no dataset.
  """
  try:
    format = importlib.import_module(f'rtjax.export.{to}')
  except ModuleNotFoundError as error:
    raise ValueError(f'--to {to} needs the package {error.name}: pip install rtjax[export].') from error
  _refuse(folder)
  policy, step = load(checkpoint, picture)
  if isinstance(step.config, RT2Config) and to not in _FOR_RT2:
    raise ValueError(f'--to {to} is not for RT-2, whose decoder TensorFlow\'s translation does not know. Export it to '
                     f'{" or ".join(_FOR_RT2)}, or serve it.')
  shown = (check.dataset_frames(policy, dataset, split, step.picture, frames) if dataset
           else check.noise_frames(step, frames))
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f'.{folder.name}.') as scratch:
      written = pathlib.Path(scratch) / 'export'
      written.mkdir()
      _save(format, step, written, int8)
      (written / 'policy.json').write_text(json.dumps(
          {'format': to, 'int8': int8, 'rtjax': rtjax.__version__} | step.metadata, indent=1) + '\n')
      found = check.compare(check.reference(policy, shown), format.load(written, step), step, shown)
      print(_report(found, check.size(written), dataset and f'{dataset}, split {split}'))
      if not int8 and not found.agrees:
        raise ValueError(f'the {to} export does not agree with the model (above), and was not kept. Please report it.')
      written.rename(folder)
  except OSError as error:
    raise ValueError(f'the output folder {folder} cannot be written: {error.strerror or error}. Choose another with '
                     '--output.') from error
  print(f'Done: {folder}')
  return found


def load(checkpoint: str, picture: tuple[int, int] | None = None) -> tuple[Policy, Step]:
  """A checkpoint's policy, computing in float32 whatever it was trained in, and its step for pictures of that size."""
  loaded = rtjax.load_policy(checkpoint)
  if not isinstance(loaded.config, (RT1Config, RT2Config)):
    raise ValueError(f'{checkpoint} is a {type(loaded.model).__name__}: exports are for RT-1, RT-1-X and RT-2, whose '
                     'step takes one picture. Run this one with rtjax.load_policy, or serve it.')
  plain = lora.merge(loaded.model)
  model = models.from_values(dataclasses.replace(plain.config, dtype='float32'), parameters.named(plain))
  if isinstance(model, RT2):
    model.vocabulary = plain.vocabulary
  policy = Policy(model, loaded.embedding_id, loaded.image_size)
  usual = model.config.vision.image_size if isinstance(model, RT2) else _RELEASED_PICTURE
  return policy, Step(model, picture or policy.image_size or usual, policy.image_size, policy.embedding_id)


def _save(format: Any, step: Step, folder: pathlib.Path, int8: bool) -> None:
  try:
    format.save(step, folder, int8)
  except NotImplementedError as error:
    name = format.__name__.rpartition('.')[2]
    raise ValueError(f'--to {name} cannot express this network: {error} Take stablehlo or safetensors, which hold any '
                     'RT-1, or serve it.') from error


def _refuse(folder: pathlib.Path) -> None:
  if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
    raise ValueError(f'{folder} is there already. Choose another with --output, or remove it.')


def _report(found: check.Comparison, size: int, where: str) -> str:
  frames = f'frames of {where}' if where else 'frames of seeded noise (give --dataset to compare on real ones)'
  return '\n'.join([
      f'compared on {found.frames} {frames}',
      f'size        {size / 1e6:.1f} MB',
      f'tokens      {found.equal} of {found.tokens} as the model ({found.equal / found.tokens:.2%})',
      f'difference  {found.difference:.2g} at most, of logits up to {found.largest:.2g}',
      f'latency     {found.seconds * 1e3:.0f} ms a step, the model in rtjax {found.model_seconds * 1e3:.0f} ms'])
