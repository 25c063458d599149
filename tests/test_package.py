"""The package: its files, its wheel, the command `rtjax`, quiet starts and early errors."""
import importlib
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv

import pytest
import setuptools
from helpers.paths import ROOT

from rtjax import __main__ as command


def run(*words, cwd=ROOT, **variables):
  """Run a program with neither the tests' nor the user's settings of TensorFlow's log."""
  env = {name: value for name, value in os.environ.items() if not name.startswith(('TF_', 'PYTHONPATH'))}
  command_line = [sys.executable, *map(str, words)]
  return subprocess.run(command_line, cwd=cwd, env=env | variables, capture_output=True, text=True, check=False)


def test_every_file_is_packaged():
  """Folders with modules are packages, and all other files match a pattern of setup.cfg."""
  parser = importlib.import_module('configparser').ConfigParser()
  parser.read(ROOT / 'setup.cfg')
  patterns = {package: value.split() for package, value in parser['options.package_data'].items()}
  packages = set(setuptools.find_packages(str(ROOT), include=['rtjax*']))
  files = [path.relative_to(ROOT) for path in (ROOT / 'rtjax').rglob('*')
           if path.is_file() and '__pycache__' not in path.parts]
  assert len(files) > 150
  assert not [file for file in files if '.'.join(file.parent.parts) not in packages]
  assert not [file for file in files if file.suffix != '.py' and not any(
      file.match(pattern) for pattern in patterns.get('.'.join(file.parent.parts), []))]


def test_every_command_is_a_function_and_is_listed():
  for name, (module, _) in command.COMMANDS.items():
    assert callable(importlib.import_module(module).main), name
  shown = run('-m', 'rtjax').stdout
  assert all(f'\n  {name} ' in shown for name in command.COMMANDS)


def test_an_unknown_command_suggests_the_nearest():
  done = run('-m', 'rtjax', 'trian')
  assert (done.returncode, done.stdout) == (2, '')
  assert done.stderr.startswith("error: unknown command 'trian', expected one of train, eval") and done.stderr.endswith(
      "Did you mean 'train'?\n")


def test_the_command_has_the_help_of_the_module():
  by_module, by_name = run('-m', 'rtjax.export', '--help').stdout, run('-m', 'rtjax', 'export', '--help').stdout
  assert '--image-size' in by_name
  assert ' '.join(by_name.split()) == ' '.join(by_module.replace('python -m rtjax.export', 'rtjax export').split())


@pytest.mark.parametrize('words', [
    ['train.py', 'rt1', '--data', 'data/built/no'], ['train.py', 'rt1', '--data', 'bridge', '--init.weights', 'no'],
    ['eval.py', 'no', '--env', 'tabletop'], ['eval.py', 'docs', '--dataset', 'data/built/nothing'],
    ['-m', 'rtjax.export', 'no', '--to', 'onnx'], ['-m', 'rtjax.serve', 'no'],
    ['train.py', 'rt2_paligemma', '--init.backbone', 'no'], ['train.py', 'rt2', '--init.tokenizer', 'no'],
    ['train.py', 'rt1', '--pipeline.encoder', 'no'], ['eval.py', 'docs', '--env', 'tabletop', '--encoder', 'no'],
    ['-m', 'rtjax.data.convert', 'docs', '--name', 'x', '--encoder', 'no'], ['-m', 'rtjax.data.look', 'data/built/no'],
    ['-m', 'rtjax.serve', 'docs', '--encoder', 'no'],
    ['-m', 'rtjax.data.convert', 'no', '--name', 'my_robot'], ['-m', 'rtjax.data.instruction_table', 'data/built/no'],
    ['-m', 'rtjax.data.image_text.check', '/no']], ids=' '.join)
def test_wrong_paths_fail_before_tensorflow_is_imported(words, tmp_path):
  """A module of this name that fails takes the place of TensorFlow."""
  (tmp_path / 'tensorflow.py').write_text('raise SystemExit("TensorFlow was imported")')
  done = run(*words, PYTHONPATH=f'{tmp_path}{os.pathsep}{ROOT}')
  assert done.returncode == 2 and done.stderr.startswith('error: ') and done.stderr.count('\n') == 1, done.stderr
  assert 'no' in done.stderr and done.stdout == ''


def test_tensorflow_starts_without_a_word():
  done = run('-c', 'from rtjax.data.tf import tf; from rtjax.models import RT1; tf.io.decode_png(tf.io.encode_png('
             'tf.zeros((2, 2, 3), tf.uint8))); import jax; jax.numpy.zeros(2)', JAX_PLATFORMS='cpu')
  assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  """A fresh virtual environment with the wheel; its requirements are those of this environment."""
  folder = tmp_path_factory.mktemp('wheel')
  source, environment = folder / 'source', folder / 'environment'
  source.mkdir()
  for name in ('setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, source)
  shutil.copytree(ROOT / 'rtjax', source / 'rtjax', ignore=shutil.ignore_patterns('__pycache__'))
  build = run('-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation', '-w', folder, '.', cwd=source)
  assert build.returncode == 0, build.stderr
  wheel, = folder.glob('*.whl')
  venv.create(environment)
  python = environment / 'bin/python'
  install = run('-m', 'pip', '--python', python, 'install', '--quiet', '--no-deps', '--no-index', wheel)
  assert install.returncode == 0, install.stderr
  # Python does not follow the .pth files in a folder that is itself named by one: this checkout stays out.
  packages, = environment.glob('lib/python*/site-packages')
  (packages / 'requirements.pth').write_text(sysconfig.get_path('purelib'))
  return environment


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == 'win32', reason='scripts are in another folder')
def test_a_wheel_works_in_a_fresh_environment(installed, tmp_path):
  env = {name: value for name, value in os.environ.items() if not name.startswith(('TF_', 'PYTHONPATH'))}

  def start(program, *words):
    done = subprocess.run([installed / 'bin' / program, *words], cwd=tmp_path, env=env | {'JAX_PLATFORMS': 'cpu'},
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
  assert pathlib.Path(start('python', '-c', 'import rtjax; print(rtjax.__file__)')).is_relative_to(installed)
  for name in command.COMMANDS:
    assert f'usage: rtjax {name}' in start('rtjax', name, '--help') or name == 'train'
  made = run(ROOT / 'data/reach/generate.py', '--out', tmp_path, '--episodes', '3')
  assert made.returncode == 0, made.stderr
  assert 'rtjax eval' in start(
      'rtjax', 'train', 'reach', '--data', 'reach/1.0.0', '--steps', '2', '--batch-size', '2', '--output', 'run',
      '--model.layers', '1', '--validation.every', '0')
  start('rtjax', 'export', 'run', '--to', 'safetensors', '--frames', '2', '--output', 'exported')
  assert (tmp_path / 'exported' / 'policy.safetensors').exists()
  # The vocabulary, the pages and the packaged policy are read from the package.
  code = ('from rtjax.language.tokenizer import Tokenizer; from rtjax.serving import page; '
          'from rtjax.evaluation.closed_loop import live; import rtjax; '
          "print(Tokenizer().size, rtjax.load_policy('rt1_tabletop').metadata.step > 0)")
  assert start('python', '-c', code) == '1536 True\n'
