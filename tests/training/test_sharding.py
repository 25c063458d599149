import json
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers.paths import ROOT
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from rtjax import models
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig, Stage
from rtjax.models.backbones.t5 import T5Config
from rtjax.models.backbones.vit import ViTConfig
from rtjax.training import sharding


def mesh(data, fsdp, tensor):
  return AbstractMesh((data, fsdp, tensor), sharding.AXES)


@pytest.mark.parametrize('path, shape, layout, expected', [
    ('params/transformer/layers/0/attention/query/kernel', (512, 8, 128), (8, 1, 1), P(None, None, None)),
    ('params/transformer/layers/0/attention/query/kernel', (512, 8, 128), (1, 8, 1), P('fsdp', None, None)),
    ('params/transformer/layers/0/attention/query/kernel', (512, 8, 128), (2, 2, 2), P('fsdp', 'tensor', None)),
    ('opt_state/1/mu/transformer/layers/0/attention/out/kernel', (8, 128, 512), (2, 2, 2), P('tensor', None, 'fsdp')),
    ('params/transformer/layers/0/attention/query/kernel', (512, 3, 128), (1, 1, 2), P(None, None, None)),
    ('params/image_encoder/film/add/kernel', (512, 1536), (1, 8, 2), P('fsdp', 'tensor')),
    ('params/embed/kernel', (384, 1536), (1, 8, 1), P(None, 'fsdp')),
    ('params/embed/kernel', (384, 1537), (1, 8, 1), P('fsdp', None)),
    ('params/embed/kernel', (383, 1537), (1, 8, 1), P(None, None)),
    ('params/norm/scale', (64,), (1, 8, 1), P(None)),
    ('params/text/layers/stacked/mlp/out/kernel', (512, 128, 64), (2, 2, 2), P(None, 'tensor', 'fsdp')),
    ('params/text/layers/stacked/attention/query/kernel', (24, 64, 8, 32), (1, 8, 1), P(None, 'fsdp', None, None)),
    ('params/text/layers/stacked/norm/scale', (512, 64), (1, 8, 1), P(None, None)),
    ('opt_state/1/0/v_row/text/layers/stacked/norm/scale', (1,), (1, 8, 1), P(None)),
    ('step', (), (2, 2, 2), P()),
])
def test_table(path, shape, layout, expected):
  assert sharding.spec(path, shape, mesh(*layout)) == expected


def test_every_rule_names_a_parameter():
  encoder = EfficientNetConfig(stages=(Stage(3, 1, 16, 6, 1),), depth=1.0)
  configs = models.RT1Config(encoder=encoder, layers=1), ViTConfig(layers=1), T5Config(encoder_layers=1)
  names = {}
  for config in configs:
    names |= models.parameters.shapes(models.abstract(config))
  everywhere = {name: sharding.spec(name, shape, mesh(1, 1, 2)) for name, shape in names.items()}
  for pattern, spec in sharding.RULES:
    matched = [name for name in names if sharding.rule(name) == spec and re.search(pattern, name)]
    assert matched and all('tensor' in everywhere[name] for name in matched), pattern


@pytest.mark.parametrize('shape', [(2, 1, 1), (-1, -1, 1), (0, 1, 1), (-1, 3, 1)])
def test_a_mesh_that_does_not_fit_is_refused(shape):
  with pytest.raises(ValueError, match='the 1 device'):
    sharding.make_mesh(shape)


def test_a_batch_that_does_not_divide_is_refused():
  with pytest.raises(ValueError, match=r'batch_size 12 does not divide into 2 part\(s\) .* over 4'):
    sharding.check_batch(12, 2, mesh(2, 2, 2))
  sharding.check_batch(16, 2, mesh(2, 2, 2))


def test_an_unknown_setting_of_distributed_is_refused():
  with pytest.raises(ValueError, match='HOST:PORT,COUNT,INDEX'):
    sharding.connect_processes('yes')


def test_every_layout_gives_the_curve_of_one_device():
  """With BatchNorm, dropout, drop connect, Adam and a moving average."""
  command = [sys.executable, ROOT / 'tests/helpers/training_layouts.py']
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  found = json.loads(done.stdout.splitlines()[-1])
  single = found.pop('single')
  assert single['losses'][-1][0] < single['losses'][0][0]
  for layout, other in found.items():
    np.testing.assert_allclose(other['losses'], single['losses'], rtol=1e-5, err_msg=layout)
    np.testing.assert_allclose(other['mean'], single['mean'], rtol=1e-5, err_msg=layout)
  # The arrays are really split: one device holds an eighth of what is worth splitting, and half of the heads.
  assert found['(8, 1, 1)']['held'] == single['total']
  assert found['(1, 8, 1)']['held'] < single['total'] / 2
  assert found['(2, 2, 2)']['query'] == [[64, 2, 16], [64, 1, 16]]
  assert found['(2, 2, 2)']['adam'] == [64, 1, 16]
