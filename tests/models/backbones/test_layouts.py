"""Backbones split over devices."""
import json
import subprocess
import sys

import numpy as np
import pytest
from helpers.paths import ROOT

# A half of the heads, hidden units or tokens, by `tensor`; and a half again, by `fsdp`, where arrays are large.
SPLIT = {
    'pali': {  # 4 heads, 128 hidden units
        'text/token_embedding/embedding': [64, 16],
        'text/token_head/kernel': [16, 64],
        'text/encoder/relative_bias': [8, 2],
        'text/encoder/layers/stacked/attention/query/kernel': [1, 32, 2, 16],
        'text/decoder/layers/stacked/mlp/gate/kernel': [1, 16, 64],
        'text/decoder/layers/stacked/cross_attention/out/kernel': [1, 2, 16, 32],
        'vision/layers/stacked/mlp/hidden/bias': [1, 64],
        'vision/layers/stacked/mlp/out/kernel': [1, 64, 16]},
    'paligemma': {  # 2 heads that share one key and value, 680 tokens
        'text/token_embedding/embedding': [340, 8],
        'text/decoder/layers/stacked/attention/query/kernel': [1, 16, 1, 8],
        'text/decoder/layers/stacked/attention/key/kernel': [1, 16, 1, 8],
        'text/decoder/layers/stacked/mlp/gate/kernel': [1, 16, 12],
        'vision/layers/stacked/attention/out/kernel': [1, 1, 8, 16]},
    't5gemma2': {
        'token_embedding/embedding': [340, 8],
        'encoder/layers/stacked/attention/query/kernel': [2, 16, 1, 8],
        'decoder/layers/stacked/attention/key/kernel': [2, 16, 1, 8],
        'decoder/layers/stacked/mlp/out/kernel': [2, 12, 16]}}


@pytest.mark.slow
@pytest.mark.parametrize('family', SPLIT)
def test_split_over_eight_devices_gives_the_curve_of_one(family):
  """With padding, and in PaLI with dropout."""
  command = [sys.executable, ROOT / 'tests/helpers/backbone_layouts.py', family]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  curves = json.loads(done.stdout.splitlines()[-1])
  single, split = curves['single'], curves['split']
  assert single['losses'][-1][0] < single['losses'][0][0]
  np.testing.assert_allclose(split['losses'], single['losses'], rtol=1e-4)
  # The initial values are those of one device, and are split as soon as they are drawn.
  assert not curves['other']
  assert min(curves['drawn'].values()) == 1 / 8
  for name, shape in SPLIT[family].items():
    assert split['shapes'][name] == shape, name
