"""bench/serve.py in short: robots, spoilt messages and dropped connections against a server in a process of its own."""
import json
import os
import subprocess
import sys

import pytest
from helpers.paths import ROOT


@pytest.mark.slow
def test_soak():
  command = [sys.executable, str(ROOT / 'bench' / 'serve.py'), '--seconds', '6', '--clients', '3', '--malformed', '200',
             '--dropped', '20']
  done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False,
                        env=os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'})
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  assert found['errors'] == 0 and found['steps'] > 50
  harassed = found['harassed']
  assert harassed['refused'] > 150 and harassed['refused'] + harassed['answered'] == 200 and harassed['leaks'] == 0
  assert harassed['clients'] == 0 and harassed['files'] <= found['start']['files']
  assert harassed['memory_mib'] < found['start']['memory_mib'] + 20
