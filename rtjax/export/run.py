"""One export: load the policy, write, read back, compare, report."""
import importlib
import json
import pathlib
from types import ModuleType

import jax
from etils import epath

from rtjax import pretrained
from rtjax.export import check
from rtjax.export.step import Step
from rtjax.policies.image_size import camera_size
from rtjax.policies.policy import Policy
from rtjax.runtime import checksums, cli, compiler, interrupt

_TENSORFLOW_FORMATS = ('savedmodel', 'onnx')


def export(checkpoint: str, to: str, folder: pathlib.Path, *, int8: bool = False,
           image_size: tuple[int, int] | None = None, dataset: str = '', split: str = 'val',
           frames: int = 200, verify: bool = True) -> check.Comparison:
  """Export a checkpoint; the folder appears only after the comparison.

  Args: as the flags in __main__.py.

  Raises:
    ValueError: the folder is not empty or cannot be written, the format cannot express the model, or a float32 export
      does not agree with the model.
    FileNotFoundError: there is no such checkpoint or dataset.
  """
  try:
    format_module = importlib.import_module(f'rtjax.export.{to}')
  except ModuleNotFoundError as error:
    raise ValueError(f'--to {to} needs the package {error.name}: pip install rtjax[export].') from error
  _require_empty(folder)
  with cli.noted_if_slow(f'Loading {checkpoint}'):
    policy, step = load(checkpoint, image_size, verify)
  if to in _TENSORFLOW_FORMATS and not step.config.tensorflow_export:
    raise ValueError(f'--to {to} cannot express a {type(policy.model).__name__}, which has no translation to '
                     'TensorFlow. Export it to stablehlo or safetensors, or serve it.')
  episodes = (check.dataset_frames(policy, dataset, split, step.camera_size, frames) if dataset
              else check.noise_frames(step, frames))
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with interrupt.scratch_folder(folder.parent, f'.{folder.name}.') as scratch:
      written = scratch / 'export'
      written.mkdir()
      compiling = compiler.announcement('the step', jax.jit(step), step.weights, *step.shapes(1))
      cli.note(f'{compiling}, and writing it as {to}')
      _save(format_module, step, written, int8)
      (written / 'policy.json').write_text(json.dumps(
          {'format': to, 'int8': int8} | step.metadata, indent=1) + '\n')
      checksums.write(epath.Path(written))
      cli.note('Comparing it with the policy')
      comparison = check.compare(check.reference(policy, episodes), format_module.load(written, step), step, episodes)
      print(_report(comparison, check.folder_size(written), dataset and f'{dataset}, split {split}'))
      if not int8 and not comparison.agrees:
        raise ValueError(f'the {to} export does not agree with the model (above), and was not kept. Please report it.')
      written.rename(folder)
  except OSError as error:
    raise ValueError(f'the output folder {folder} cannot be written: {error.strerror or error}. Choose another with '
                     '--output.') from error
  print(f'Done: {folder}')
  return comparison


def load(checkpoint: str, image_size: tuple[int, int] | None = None, verify: bool = True) -> tuple[Policy, Step]:
  """Load a policy in float32, adapters merged, and its step.

  Args:
    image_size: of the robot's images; None: that of the training data.
    verify: compare the checksums of the checkpoint's files.
  """
  model, metadata = pretrained.load(checkpoint, verify=verify)
  if model.config.views > 1:
    raise ValueError(f'{checkpoint} is a {type(model).__name__} of {model.config.views} views: an exported '
                     'step takes one image. Run this model with rtjax.load_policy, or serve it.')
  policy = Policy(model.merged().computing_in('float32'), metadata)
  return policy, Step(policy.model, image_size or camera_size(policy.config, metadata), metadata)


def _save(format_module: ModuleType, step: Step, folder: pathlib.Path, int8: bool) -> None:
  try:
    format_module.save(step, folder, int8)
  except NotImplementedError as error:
    name = format_module.__name__.rpartition('.')[2]
    raise ValueError(f'--to {name} cannot express this network: {error} Use stablehlo or safetensors, which take any '
                     'model, or serve it.') from error


def _require_empty(folder: pathlib.Path) -> None:
  if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
    raise ValueError(f'{folder} is there already. Choose another with --output, or remove it.')


def _report(comparison: check.Comparison, size: int, source: str) -> str:
  c = comparison
  frames = f'frames of {source}' if source else 'frames of seeded noise (set --dataset to compare on real ones)'
  return '\n'.join([
      f'compared on {c.frames} {frames}',
      f'size        {size / 1e6:.1f} MB',
      f'tokens      {c.equal} of {c.tokens} equal to the model ({c.equal / c.tokens:.2%})',
      f'difference  at most {c.difference:.2g}, of logits up to {c.largest_logit:.2g}',
      f'latency     {c.seconds * 1e3:.0f} ms per step, the model in rtjax {c.model_seconds * 1e3:.0f} ms'])
