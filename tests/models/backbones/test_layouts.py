"""PaLI split over devices."""
import json
import subprocess
import sys

import numpy as np
import pytest
from helpers.paths import ROOT


@pytest.mark.slow
def test_split_over_eight_devices_gives_the_curve_of_one():
  """Tiny ViT into tiny T5, with padding and dropout."""
  script = ROOT / 'tests/helpers/backbone_layouts.py'
  done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  curves = json.loads(done.stdout.splitlines()[-1])
  single, split = curves['single'], curves['split']
  assert single['losses'][-1][0] < single['losses'][0][0]
  np.testing.assert_allclose(split['losses'], single['losses'], rtol=1e-4)
  # The initial values are those of one device, and are split as soon as they are drawn.
  assert not curves['other']
  for name in ('text/token_embedding/embedding', 'text/decoder/layers/stacked/mlp/gate/kernel',
               'vision/layers/stacked/mlp/out/kernel'):
    assert curves['drawn'][name] == 1 / 8, name
  for name, shape in {  # a half of 4 heads or of 128 hidden units; and a half again, by `fsdp`, where arrays are large
      'text/token_embedding/embedding': [64, 16], 'text/token_head/kernel': [16, 64],
      'text/encoder/relative_bias': [8, 2],
      'text/encoder/layers/stacked/attention/query/kernel': [1, 32, 2, 16],
      'text/decoder/layers/stacked/mlp/gate/kernel': [1, 16, 64],
      'text/decoder/layers/stacked/cross_attention/out/kernel': [1, 2, 16, 32],
      'vision/layers/stacked/mlp/hidden/bias': [1, 64],
      'vision/layers/stacked/mlp/out/kernel': [1, 64, 16]}.items():
    assert split['shapes'][name] == shape, name
