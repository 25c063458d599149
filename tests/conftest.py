"""Shared fixtures and settings of all tests."""
import gc
import os
import pathlib
import tempfile

import jaxtyping
import pytest
from helpers.paths import ROOT

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Most of the tests' time is compilation. Processes that tests start inherit both settings, so that numbers compared bit
# for bit come from programs compiled alike. JAX_DISABLE_MOST_OPTIMIZATIONS=0 tests the optimised programs.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
# XLA's older code generator for CPUs compiles in half the time of the one that replaces it, and best in one piece.
os.environ['XLA_FLAGS'] = (f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false "
                           '--xla_cpu_parallel_codegen_split_count=1')
# The workers, and the processes that tests start, compile the same small networks: the first one does it for all.
# Single operations compile faster than they are compressed and written.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  compiled = tempfile.TemporaryDirectory(prefix='rtjax-compiled-')  # removed with the process that made it
  os.environ |= {'JAX_COMPILATION_CACHE_DIR': compiled.name, 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1'}
os.environ |= {'TF_CPP_MIN_LOG_LEVEL': '3', 'TF_ENABLE_ONEDNN_OPTS': '0'}  # before tests import TensorFlow

# Tracing makes many objects and few cycles: the collector took 4 % of the time.
gc.set_threshold(100_000, 50, 50)

# Shapes and types in the signatures of networks are checked here; outside tests they cost nothing.
jaxtyping.install_import_hook('rtjax.models', 'beartype.beartype')


@pytest.fixture(scope='session')
def shared() -> pathlib.Path:
  """Folder of reference outputs and robot episodes beside a development checkout."""
  folder = ROOT.parent / 'shared'
  if not folder.is_dir():
    pytest.skip(f'no reference data at {folder}: this test compares with it')
  return folder
