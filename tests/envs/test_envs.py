"""Lookup of environments by name, and registration."""
import importlib.util
import os
import subprocess
import sys

import pytest

from rtjax import envs


@pytest.mark.parametrize(('name', 'near'), [('tabeltop', 'tabletop'), ('metawrold', 'metaworld')])
def test_unknown_name_suggests_the_nearest(name, near):
  for call in (envs.make, envs.splits):
    with pytest.raises(ValueError, match=f"unknown environment '{name}', .* Did you mean '{near}'"):
      call(name)


def test_the_tabletop_has_no_tasks():
  with pytest.raises(ValueError, match="unknown environment 'tabletop/pick'"):
    envs.make('tabletop/pick')


@pytest.mark.skipif(importlib.util.find_spec('metaworld') is not None, reason='Meta-World is installed')
def test_missing_simulator_names_its_extra():
  pytest.importorskip('gymnasium', reason="needs the extra 'sim'")
  with pytest.raises(ImportError, match=r"'metaworld/reach-v3' needs metaworld: pip install 'rtjax\[metaworld\]'"):
    envs.make('metaworld/reach-v3')


def test_opengl_that_does_not_load_names_its_packages():
  pytest.importorskip('mujoco', reason="needs the extra 'sim'")
  script = 'from rtjax import envs; envs.make("tabletop")'
  result = subprocess.run([sys.executable, '-c', script], env={**os.environ, 'MUJOCO_GL': 'nonsense'},
                          capture_output=True, text=True)
  assert "ImportError: the environment 'tabletop' needs OpenGL" in result.stderr
  assert 'apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri' in result.stderr and 'libosmesa6' in result.stderr
