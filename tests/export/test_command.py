"""The export command, from a checkpoint to a folder."""
import importlib
import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import replays, saved_run
from helpers.tiny_rt1 import TINY

import rtjax
from rtjax import models
from rtjax.checkpoints import UNIVERSAL_SENTENCE_ENCODER
from rtjax.runtime import cli

pytest.importorskip('safetensors')


@pytest.fixture(scope='module')
def run_folder(tmp_path_factory):
  model = models.build(TINY, seed=0)
  return saved_run.save(model, tmp_path_factory.mktemp('run'), UNIVERSAL_SENTENCE_ENCODER)


@pytest.fixture
def export(monkeypatch, capsys):
  """Call the command with some arguments; returns exit code and output."""
  main = importlib.import_module('rtjax.export.__main__').main

  def call(*arguments):
    monkeypatch.setattr(sys, 'argv', ['export', *map(str, arguments)])
    code = 0
    try:
      cli.run(main)
    except SystemExit as stop:
      code = stop.code
    return code, capsys.readouterr()
  return call


def test_on_recorded_episodes(export, run_folder, tmp_path):
  dataset = replays.bridge(tmp_path / 'data')
  folder = tmp_path / 'deep' / 'out'
  code, printed = export(run_folder, '--to', 'safetensors', '--output', folder, '--dataset', dataset, '--frames', 5)
  assert code == 0, printed.err
  assert f'compared on 5 frames of {dataset}, split val' in printed.out
  assert 'tokens      35 of 35 equal to the model (100.00%)' in printed.out
  assert printed.out.endswith(f'Done: {folder}\n')
  size = sum(path.stat().st_size for path in folder.iterdir())
  assert f'size        {size / 1e6:.1f} MB' in printed.out
  description = json.loads((folder / 'policy.json').read_text())
  assert (description['format'], description['int8'], description['camera_size']) == ('safetensors', False, [256, 320])
  assert rtjax.load_model(folder).config == TINY
  weights = bytearray((folder / 'policy.safetensors').read_bytes())
  weights[-40] ^= 1
  (folder / 'policy.safetensors').write_bytes(weights)
  for path in (folder, folder / 'policy.safetensors'):
    with pytest.raises(ValueError, match=r'is damaged or changed: policy\.safetensors has other contents.*no-verify'):
      rtjax.load_model(path)
    assert rtjax.load_model(path, verify=False).config == TINY
  assert [path.name for path in folder.parent.iterdir()] == ['out']


def test_noise_is_reported_as_noise(export, run_folder, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  code, printed = export(run_folder, '--to', 'safetensors', '--int8', '--image-size', 40, 32, '--frames', 3)
  assert code == 0 and 'compared on 3 frames of seeded noise' in printed.out
  assert (tmp_path / 'exports' / f'{run_folder.name}-safetensors-int8' / 'policy.safetensors').exists()


def test_an_export_that_differs_is_not_kept(export, run_folder, tmp_path, monkeypatch):
  from rtjax.export import safetensors
  load = safetensors.load

  def shifted(folder, step):
    run = load(folder, step)
    return lambda *inputs: (outputs := run(*inputs)) | {'logits': outputs['logits'] + 0.1}
  monkeypatch.setattr(safetensors, 'load', shifted)
  code, printed = export(run_folder, '--to', 'safetensors', '--output', tmp_path / 'out', '--frames', 2,
                         '--image-size', 40, 32)
  assert code == 2 and 'does not agree with the model' in printed.err and 'Done' not in printed.out
  assert list(tmp_path.iterdir()) == []


def test_models_of_several_views_are_refused(export, tmp_path):
  config = models.RT1MultiviewConfig(
      views=2, image_size=(32, 32), encoder=TINY.encoder, width=16, heads=2, layers=1, hidden=16)
  run = saved_run.save(models.build(config, seed=0), tmp_path / 'run', UNIVERSAL_SENTENCE_ENCODER)
  for to in ('onnx', 'savedmodel', 'stablehlo', 'safetensors'):
    code, printed = export(run, '--to', to, '--output', tmp_path / 'out')
    assert code == 2 and 'is a RT1Multiview of 2 views: an exported step takes one image' in printed.err, printed.err
    assert printed.err.startswith('error: ') and printed.err.count('\n') == 1


@pytest.mark.parametrize('to', ['onnx', 'savedmodel'])
def test_a_format_that_lacks_an_operation(export, run_folder, tmp_path, monkeypatch, to):
  tf_ops = pytest.importorskip('rtjax.export.tf_ops', reason="needs the extra 'export'")
  pytest.importorskip('onnxruntime', reason="needs the extra 'export'")
  monkeypatch.delitem(tf_ops._OPS, 'dot_general')
  code, printed = export(run_folder, '--to', to, '--output', tmp_path / 'out', '--image-size', 40, 32, '--frames', 1)
  assert code == 2
  message = printed.err.strip().splitlines()[-1]
  assert message.startswith(f'error: --to {to} cannot express this network: the network uses the JAX primitive ')
  assert 'Traceback' not in printed.err and not (tmp_path / 'out').exists()


@pytest.mark.parametrize(('changed', 'message'), [
    ({'--to': 'savedmodle'}, "expected one of savedmodel, stablehlo, onnx, safetensors. Did you mean 'savedmodel'?"),
    ({'--frames': 0}, '--frames is 0, it must be at least 1'),
    ({'checkpoint': 'nowhere'}, 'no model at nowhere'),
    ({'checkpoint': __file__}, 'no model at'),
    ({'--dataset': '/nowhere'}, "dataset '/nowhere': no such folder"),
    ({'--output': __file__}, 'is there already'),
    ({'--output': f'{__file__}/out'}, 'cannot be written'),
])
def test_bad_arguments(export, run_folder, tmp_path, changed, message):
  arguments = {'checkpoint': run_folder, '--to': 'safetensors', '--output': tmp_path / 'out'} | changed
  run = arguments.pop('checkpoint')
  code, printed = export(run, *(part for pair in arguments.items() for part in pair))
  assert code == 2
  assert printed.err.strip().splitlines()[-1].startswith('error: ') and message in printed.err
  assert 'Done' not in printed.out


def test_help_is_quick():
  script = ('import runpy, sys\nsys.argv = ["export", "--help"]\n'
            'try:\n  runpy.run_module("rtjax.export", run_name="__main__")\n'
            'finally:\n  assert not {"tensorflow", "orbax", "onnx"} & set(sys.modules)')
  shown = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True).stdout
  assert all(word in shown for word in ('CHECKPOINT', '--to', '--int8', '--output', '--dataset', '--frames'))


def test_camera_of_released_policies_is_the_default(run_folder):
  from rtjax.export import run
  policy, step = run.load(str(run_folder))
  assert step.camera_size == (256, 320) and step.weights.keys() and policy.config.dtype == 'float32'
  assert all(isinstance(value, np.ndarray) for value in step.weights.values())
