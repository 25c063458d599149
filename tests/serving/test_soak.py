"""bench/serve.py in short: robots, corrupted messages and dropped connections against a server process."""
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
  stressed = found['stressed']
  assert stressed['refused'] > 150 and stressed['refused'] + stressed['answered'] == 200 and stressed['leaks'] == 0
  assert stressed['clients'] == 0 and stressed['files'] <= found['start']['files']
  assert stressed['memory_mib'] < found['start']['memory_mib'] + 20
