"""ViT and T5 split over devices."""
import json
import pathlib
import subprocess
import sys

import numpy as np


def test_every_layout_gives_the_curve_of_one_device():
  """Tiny ViT into tiny T5, with padding and dropout."""
  script = pathlib.Path(__file__).with_name('backbone_layouts.py')
  done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  found = json.loads(done.stdout.splitlines()[-1])
  single = found.pop('single')
  assert single['losses'][-1][0] < single['losses'][0][0]
  for layout, other in found.items():
    np.testing.assert_allclose(other['losses'], single['losses'], rtol=1e-4, err_msg=layout)
  held = found['(2, 1, 4)']['held']
  for name, split in {'text/token_embedding/embedding': [32, 32], 'text/token_head/kernel': [32, 32],
                      'text/encoder/layers/0/attention/query/kernel': [32, 1, 16], 'text/encoder/relative_bias': [8, 1],
                      'text/decoder/layers/0/cross_attention/out/kernel': [1, 16, 32],
                      'text/decoder/layers/0/mlp/gate/kernel': [32, 32], 'vision/layers/0/mlp/hidden/bias': [32],
                      'vision/layers/0/mlp/out/kernel': [32, 32]}.items():
    assert held[name] == split, name
