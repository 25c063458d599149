import dataclasses

import numpy as np
import pytest
from flax import nnx
from helpers import tiny_training

from rtjax import actions, models, pretrained
from rtjax.models import RT1Config, parameters
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig, Stage
from rtjax.training import initialize

SMALL = RT1Config(
    action_spec=tiny_training.SPEC, window=3, image_size=(16, 16), image_tokens=2, token_width=8, width=16, layers=1, heads=2,
    head_size=4, encoder=EfficientNetConfig(width=0.25, depth=0.25, stages=(Stage(3, 1, 16, 1, 2),)))


@pytest.fixture(scope='module')
def source():
  return models.build(SMALL, rngs=nnx.Rngs(0))


def start(source, monkeypatch, **changes):
  monkeypatch.setattr(pretrained, 'load_model', lambda path: source)
  model = models.build(dataclasses.replace(SMALL, **changes), rngs=nnx.Rngs(1))
  fresh = parameters.named(model)
  report = initialize.start_from(model, 'WEIGHTS')
  return parameters.named(source), fresh, parameters.named(model), report


def test_the_same_network_takes_everything(source, monkeypatch):
  theirs, _, ours, report = start(source, monkeypatch)
  for name, value in theirs.items():
    np.testing.assert_array_equal(ours[name], value, err_msg=name)
  assert f'loaded: {len(theirs)} variables' in report and 'new: 0 variables' in report and 'in part' not in report


def rows(kernel, config):
  return np.asarray(kernel).reshape(config.window, config.step_tokens, -1)


@pytest.mark.parametrize('window', [2, 5])
def test_another_window_keeps_the_newest_frames_positions(source, monkeypatch, window):
  theirs, fresh, ours, report = start(source, monkeypatch, window=window)
  name, config = 'transformer/position/kernel', dataclasses.replace(SMALL, window=window)
  old, new, before = rows(theirs[name], SMALL), rows(ours[name], config), rows(fresh[name], config)
  kept = min(3, window)
  np.testing.assert_array_equal(new[-kept:], old[-kept:])
  np.testing.assert_array_equal(new[:-kept], before[:-kept])
  assert ('in part: transformer/position/kernel (15 of 25 rows)' in report) == (window == 5)
  np.testing.assert_array_equal(ours['transformer/output/kernel'], theirs['transformer/output/kernel'])


def test_a_horizon_keeps_the_rows_of_the_first_action(source, monkeypatch):
  theirs, fresh, ours, _ = start(source, monkeypatch, horizon=2)
  name, config = 'transformer/position/kernel', dataclasses.replace(SMALL, horizon=2)
  old, new, before = rows(theirs[name], SMALL), rows(ours[name], config), rows(fresh[name], config)
  # Per step: two images, the rows that read out the second and third number, (new) those of the next action, the last.
  np.testing.assert_array_equal(new[:, :4], old[:, :4])
  np.testing.assert_array_equal(new[:, 4:7], before[:, 4:7])
  np.testing.assert_array_equal(new[:, 7], old[:, 4])


def test_other_actions_keep_image_rows_and_those_of_the_same_name(source, monkeypatch):
  spec = dataclasses.replace(tiny_training.SPEC, fields=(actions.ActionField('new', 1, bins=4), *tiny_training.SPEC.fields[1:]))
  theirs, _, ours, report = start(source, monkeypatch, action_spec=spec)
  name, config = 'transformer/position/kernel', dataclasses.replace(SMALL, action_spec=spec)
  old, new = rows(theirs[name], SMALL), rows(ours[name], config)
  np.testing.assert_array_equal(new[:, :2], old[:, :2])
  np.testing.assert_array_equal(new[:, 2:], old[:, 3:])  # 'grip' and the last
  assert 'transformer/output' not in report


def test_another_vocabulary_leaves_the_output_new(source, monkeypatch):
  spec = dataclasses.replace(tiny_training.SPEC, vocab_size=8)
  _, fresh, ours, report = start(source, monkeypatch, action_spec=spec)
  np.testing.assert_array_equal(ours['transformer/output/kernel'], fresh['transformer/output/kernel'])
  assert 'new: 2 variables, 136 numbers (transformer/output/bias, transformer/output/kernel)' in report
  assert 'left out: 2 variables, 68 numbers (transformer/output/bias, transformer/output/kernel)' in report


def test_nothing_in_common_is_an_error(monkeypatch):
  other = models.build(tiny_training.TinyConfig(width=8), rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match=r'none of its .* variables fits'):
    start(other, monkeypatch)


def test_an_encoder_other_than_b3_refuses_imagenet():
  with pytest.raises(ValueError, match='EfficientNet-B3'):
    initialize.start_from(models.build(SMALL, rngs=nnx.Rngs(0)), 'imagenet')
