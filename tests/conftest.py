"""Shared fixtures: where the reference data lies."""
import os
import pathlib

import jaxtyping
import pytest

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

# Shapes and types in the networks' signatures are checked here; outside tests they cost nothing.
jaxtyping.install_import_hook('rtjax.models', 'beartype.beartype')

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope='session')
def shared() -> pathlib.Path:
  """The folder of reference outputs and robot episodes that lies beside a development checkout."""
  folder = ROOT.parent / 'shared'
  if not folder.is_dir():
    pytest.skip(f'no reference data at {folder}: this test compares with it')
  return folder
