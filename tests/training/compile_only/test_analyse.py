"""Reports on steps that are compiled for other devices."""
import dataclasses
import importlib.machinery
import importlib.util
import re
import subprocess
import sys

import jax
import pytest
from helpers import tiny_training
from helpers.paths import ROOT

from rtjax import models
from rtjax.training import compile_only
from rtjax.training.compile_only import devices
from rtjax.training.compile_only.program import Cost
from rtjax.training.compile_only.report import Report


def train(*words):
  return subprocess.run([sys.executable, ROOT / 'train.py', *map(str, words)], capture_output=True, text=True,
                        check=False)


def test_a_step_on_this_cpu(tmp_path):
  config = tiny_training.config(tmp_path)
  report = compile_only.analyse(config, 'cpu:1')
  count = sum(leaf.size for leaf in jax.tree.leaves(models.abstract(config.model)))
  assert report.memory['parameters'] == pytest.approx(4 * count, rel=0.01)
  assert report.memory['optimizer'] == pytest.approx(2 * report.memory['parameters'], rel=0.02)  # Adam
  pixels = config.batch_size * config.model.window * 256 * 320 * 3
  assert report.memory['batch'] == pytest.approx(pixels, rel=0.05)
  assert report.cost.flops > 0 and report.fits and not report.bounds
  assert 'in all' in compile_only.describe(report) and not list(tmp_path.iterdir())


def test_simulated_devices_on_the_command_line(tmp_path):
  done = train('reach', '--compile-only', 'cpu:2', '--batch-size', 4, '--output', tmp_path / 'run',
               *['--model.layers', '1', '--model.image-size', '32', '32', '--model.encoder.depth', '0.2'])
  assert done.returncode == 0, done.stderr
  assert re.search(r'4 windows in 1 part\(s\), float32, on 2 devices of cpu:2 \(2 data\)', done.stdout)
  assert 'all-reduce' in done.stdout and 'rtjax/models/' in done.stdout
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('target, message', [
    ('v5x:2x2', "unknown kind 'v5x'.*Did you mean"), ('cpu:none', 'number of simulated devices'),
    ('cpu:99', 'has started with'), ('v5e', 'expected a topology')])
def test_unknown_devices_are_refused(target, message, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: importlib.machinery.ModuleSpec(name, None, origin='x'))
  with pytest.raises(ValueError, match=message):
    devices.devices(target)


def test_a_missing_compiler_names_its_package(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r"pip install 'rtjax\[tpu-compile\]'"):
    devices.devices('v5e:2x2')


def report(**memory):
  config = dataclasses.replace(tiny_training.config('run'), batch_size=256)
  mesh = {'data': 8, 'fsdp': 1, 'tensor': 1}
  return Report(config, 'v5e:2x4', mesh, memory, [], None, 1.0)


def test_advice_names_the_least_number_of_parts_that_fit():
  refused = report(parameters=1e9, optimizer=2e9, temporary=40e9)
  assert not refused.fits
  assert refused.advice().startswith('--grad-accum-steps 4 (')  # 3 + 40 / 4 <= 16.9 GB
  assert '--mesh.fsdp -1' in refused.advice() and '--model.dtype bfloat16' in refused.advice()
  assert '--grad-accum-steps' not in report(parameters=30e9, optimizer=0, temporary=1e9).advice()


def test_bounds_follow_the_rates_of_the_chip():
  cost = Cost(flops=197e12, hbm_bytes=819e9 / 2, messages={'all-reduce': (3, 200e9 / 4)}, seconds=1.25)
  found = dataclasses.replace(report(parameters=1e9, temporary=1e9), cost=cost)
  assert found.fits
  assert found.bounds == pytest.approx({'compute': 1, 'memory': 0.5, 'interconnect': 0.25, 'step': 1.25})
  assert '80 % of the matrix rate' in compile_only.describe(found)


@pytest.mark.slow
def test_a_tpu_that_is_not_there(tmp_path):
  pytest.importorskip('libtpu', reason='needs the extra tpu-compile')
  done = train('rt1_tabletop', '--compile-only', 'v5e:2x2', '--output', tmp_path / 'run')
  assert done.returncode == 0, done.stderr
  assert 'fits into 16.91' in done.stdout and 'windows/s' in done.stdout
  unknown = train('rt1_tabletop', '--compile-only', 'v5e:3x7')
  assert unknown.returncode == 2 and 'no such topology' in unknown.stderr
