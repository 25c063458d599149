import json
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers.paths import ROOT
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from rtjax import configs, models
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig, Stage
from rtjax.models.backbones.t5 import T5Config
from rtjax.models.backbones.vit import ViTConfig
from rtjax.training import sharding, state


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


def test_pod_scale_parameters_are_split():
  """Over any number of devices, by their largest power of two at least."""
  _, params, *_ = state.split(models.abstract(configs.get('rt2_5b').model))
  total = 4 * models.parameters.count(params)
  for devices in (24, 48, 96, 192, 256, 512):
    layout = AbstractMesh(*sharding.mesh_axes((1, devices, 1)))
    held = sum(sharding.bytes_per_device(params, layout).values())
    assert held < 1.2 * total / (devices & -devices), devices
    advice = sharding.describe_whole(params, layout)
    unused = held - total / devices > 2 ** 28
    assert (f'do not divide by {devices}' in advice and f'--mesh.fsdp {devices & -devices} ' in advice) == unused
    assert bool(advice) == unused
  odd = sharding.describe_whole(params, mesh(4, 13, 2))
  assert '--mesh.data 13 --mesh.fsdp 4 holds' not in odd and '--mesh.data 1 --mesh.fsdp 52 holds' in odd


def test_the_axis_of_fsdp_is_two_where_few_sizes_divide():
  assert sharding.mesh_axes((2, 8, 2)) == ((2, 8, 2), sharding.AXES)
  assert sharding.mesh_axes((1, 3, 1)) == ((1, 3, 1), sharding.AXES)
  layout = AbstractMesh(*sharding.mesh_axes((1, 256, 1)))
  assert layout.shape == {'data': 1, 'fsdp': 128, 'fsdp_rest': 2, 'tensor': 1}
  assert sharding.layout(layout) == {'data': 1, 'fsdp': 256, 'tensor': 1}
  assert sharding.batch_spec(layout) == P(('data', 'fsdp', 'fsdp_rest'))
  assert sharding.spec('a/kernel', (1664, 8192), layout) == P(None, ('fsdp', 'fsdp_rest'))
  assert sharding.spec('a/kernel', (1664, 16, 104), layout) == P('fsdp', None, 'fsdp_rest')


@pytest.mark.parametrize('processes, expected', [
    ([[0], [0], [1], [1]], [(0, 2), (1, 2)]),
    ([[0], [1], [0], [1]], [(0, 2), (1, 2)]),  # as the chips of a torus
    ([[0, 1]], [(0, 1), (0, 1)]),
    ([[0, 0, 1, 1]], [(0, 1), (0, 1)]),
    ([[0, 1], [2, 3]], [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ([[0, 0], [1, 1]], [(0, 2), (1, 2)]),
])
def test_processes_of_a_tensor_group_have_one_share(processes, expected):
  assert [sharding.share_of(np.array(processes), i) for i in range(len(expected))] == expected


def test_shares_that_overlap_are_refused():
  with pytest.raises(ValueError, match=r'blocks of the batch: \[\(0, 1\), \(1, 2\)\].* give every process as many'):
    sharding.share_of(np.array([[0, 0], [0, 1], [1, 1]]), 0)


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


def check_layouts(*meshes):
  """Train on meshes, compare with one device, and return what was found."""
  command = [sys.executable, ROOT / 'tests/helpers/training_layouts.py', *meshes]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  found = json.loads(done.stdout.splitlines()[-1])
  single = found['single']
  assert single['losses'][-1][0] < single['losses'][0][0]
  for mesh in meshes:
    np.testing.assert_allclose(found[mesh]['losses'], single['losses'], rtol=1e-5, err_msg=mesh)
    np.testing.assert_allclose(found[mesh]['mean'], single['mean'], rtol=1e-5, err_msg=mesh)
  return found


def test_all_axes_together_give_the_curve_of_one_device():
  """With BatchNorm, dropout, drop connect, Adam and a moving average."""
  found = check_layouts('2,2,2')
  for equal, differing in found['copies']:
    assert equal == 'None'
    assert differing.startswith('step 3: copies of weights differ between devices, on those of process(es) [0]')
  # The arrays are really split.
  assert found['2,2,2']['query'] == [[64, 2, 16], [64, 1, 16]]
  assert found['2,2,2']['adam'] == [64, 1, 16]


@pytest.mark.slow  # two more programs
def test_data_and_fsdp_alone_give_the_curve_of_one_device():
  found = check_layouts('8,1,1', '1,8,1')
  total = found['single']['total']
  assert found['8,1,1']['held'] == total and found['1,8,1']['held'] < total / 2
  # No device gathers the batch: the memory of a step is a part of that on one device.
  assert found['8,1,1']['gathers'] == 0
  assert found['8,1,1']['temporary'] < found['single']['temporary'] / 4
