"""Initial weights: statistics of the data, and weights of another network."""
import dataclasses
import types

import jax
import numpy as np
import pytest
from helpers import saved_run, tiny_rt2, tiny_training

from rtjax import actions, checkpoints, models, pretrained
from rtjax.export import safetensors
from rtjax.export.step import Step
from rtjax.models import RT1Config, RT1MultiviewConfig, parameters
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig, Stage
from rtjax.models.layers import lora
from rtjax.models.layers.lora import LoraConfig
from rtjax.training import initialize

SMALL = RT1Config(
    action_spec=tiny_training.SPEC, window=3, image_size=(16, 16), image_tokens=2, token_width=8, width=16, layers=1,
    heads=2, head_size=4, encoder=EfficientNetConfig(width=0.25, depth=0.25, stages=(Stage(3, 1, 16, 1, 2),)))


@pytest.fixture(scope='module')
def source():
  return models.build(SMALL, seed=0)


def export_safetensors(model, folder):
  safetensors.save(Step(model, (16, 16)), folder, False)
  return folder


def start(source, monkeypatch, **changes):
  monkeypatch.setattr(pretrained, 'open_weights', lambda path: pretrained.opened(source))
  model = models.build(dataclasses.replace(SMALL, **changes), seed=1)
  fresh = parameters.named(model)
  report = initialize.start_from(model, 'WEIGHTS')
  return parameters.named(source), fresh, parameters.named(model), report


def test_the_same_network_loads_everything(source, monkeypatch):
  theirs, _, ours, report = start(source, monkeypatch)
  for name, value in theirs.items():
    np.testing.assert_array_equal(ours[name], value, err_msg=name)
  assert f'loaded: {len(theirs)} variables' in report and 'new: 0 variables' in report and 'in part' not in report


def rows(kernel, config):
  return np.asarray(kernel).reshape(config.window, config.sequence_tokens, -1)


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
  # Per frame: two images, the rows that predict the second and third number, (new) those of the next action, the last.
  np.testing.assert_array_equal(new[:, :4], old[:, :4])
  np.testing.assert_array_equal(new[:, 4:7], before[:, 4:7])
  np.testing.assert_array_equal(new[:, 7], old[:, 4])


def test_other_actions_keep_image_rows_and_those_of_the_same_name(source, monkeypatch):
  new_field = actions.ActionField('new', 1, bins=4)
  spec = dataclasses.replace(tiny_training.SPEC, fields=(new_field, *tiny_training.SPEC.fields[1:]))
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
  other = models.build(tiny_training.TinyConfig(width=8), seed=0)
  with pytest.raises(ValueError, match=r'none of its .* variables fits'):
    start(other, monkeypatch)


@pytest.mark.parametrize('write', [lambda model, folder: saved_run.save(model, folder, 'none'), export_safetensors])
def test_layers_of_a_deeper_and_a_shallower_network(write, tmp_path):
  source = tiny_rt2.randomised(tiny_rt2.TINY)
  text = dataclasses.replace(tiny_rt2.TINY.backbone.text, encoder_layers=1, decoder_layers=3)
  model = models.build(dataclasses.replace(tiny_rt2.TINY, backbone=dataclasses.replace(
      tiny_rt2.TINY.backbone, text=text)), seed=5)
  theirs, fresh = parameters.named(source), parameters.named(model)
  report = initialize.start_from(model, write(source, tmp_path))
  ours = parameters.named(model)
  for name, value in ours.items():
    np.testing.assert_array_equal(value, theirs[name] if name in theirs else fresh[name], err_msg=name)
  only_ours, only_theirs = ours.keys() - theirs.keys(), theirs.keys() - ours.keys()
  assert {name.split('/layers/')[0] for name in only_ours} == {'backbone/text/decoder'}
  assert f'new: {len(only_ours)} variables' in report and f'left out: {len(only_theirs)} variables' in report


@pytest.mark.parametrize('ours, kept', [(LoraConfig(), False), (LoraConfig(rank=3), False),
                                        (LoraConfig(rank=2, alpha=4.0), False), (LoraConfig(rank=2), True)])
def test_adapters_go_on_or_are_folded_into_the_kernels(tmp_path, ours, kept):
  """With equal bits: test_lora shows that folded kernels compute what the adapted network did."""
  source = tiny_rt2.randomised(tiny_rt2.ADAPTED)
  model = models.build(dataclasses.replace(tiny_rt2.TINY, lora=ours), seed=5)
  report = initialize.start_from(model, saved_run.save(source, tmp_path, 'none'))
  theirs, found = parameters.named(source if kept else source.merged()), parameters.named(model)
  adapters = {name for name in found if lora.is_adapter(name)}
  for name in theirs:
    np.testing.assert_array_equal(found[name], theirs[name], err_msg=name)
  assert found.keys() - theirs.keys() == (set() if kept else adapters)
  assert not any(np.any(found[name]) for name in adapters - theirs.keys() if name.endswith('lora_b'))
  kernels = len(lora.adapted(source))
  assert (f'its adapters, of rank 2, are folded into {kernels} kernels' in report) != kept
  assert 'left out: 0 variables' in report


def test_adapters_of_kernels_in_bfloat16_are_folded_in_float32(tmp_path):
  """A kernel that was frozen takes the whole of the adapter."""
  source = models.from_values(tiny_rt2.ADAPTED, parameters.stored(tiny_rt2.randomised(tiny_rt2.ADAPTED)))
  parameters.hold_in_dtype(source, '/kernel$', 'bfloat16')
  model, run = models.build(tiny_rt2.TINY, seed=5), saved_run.save(source, tmp_path, 'none')
  initialize.start_from(model, run)
  expected = parameters.named(pretrained.load_model(run).merged())
  for name, value in parameters.named(model).items():
    np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_the_host_holds_a_part_of_a_checkpoint_at_a_time(tmp_path, monkeypatch):
  run, held, restore = saved_run.save(tiny_rt2.randomised(tiny_rt2.TINY), tmp_path, 'none'), [], checkpoints._restore
  monkeypatch.setattr(checkpoints, '_READ_AT_ONCE', 5000)

  def recorded(folder, wanted):
    held.append([np.prod(leaf.shape, dtype=int) * leaf.dtype.itemsize for leaf in jax.tree.leaves(wanted)])
    return restore(folder, wanted)
  monkeypatch.setattr(checkpoints, '_restore', recorded)
  model = models.build(dataclasses.replace(tiny_rt2.TINY, action_spec=tiny_rt2.FAST_SPEC), seed=5)
  initialize.start_from(model, run)
  assert max(map(len, held)) > 5 and all(sum(sizes) <= 5000 or len(sizes) == 1 for sizes in held)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
  broken = models.build(tiny_rt2.TINY, seed=0)
  broken.classifier.bias[...] = broken.classifier.bias[...].at[0, 0].set(np.nan)
  with pytest.raises(ValueError, match='NaN or infinite numbers in 1 arrays:\n  classifier/bias'):
    initialize.start_from(models.build(tiny_rt2.TINY, seed=1), saved_run.save(broken, tmp_path, 'none'))


def test_an_encoder_other_than_b3_refuses_imagenet():
  with pytest.raises(ValueError, match='EfficientNet-B3'):
    initialize.start_from(models.build(SMALL, seed=0), 'imagenet')


def test_statistics_are_those_of_all_datasets_together():
  random = np.random.default_rng(0)
  sets = [random.normal(i, 1 + i, (50 + 30 * i, 7)) for i in range(3)]
  found = {str(i): {'steps': len(s), 'proprioception': {'mean': s.mean(0).tolist(), 'std': s.std(0).tolist()}}
           for i, s in enumerate(sets)}
  kept = []
  network = types.SimpleNamespace(set_normalization=lambda moments: kept.extend(moments('proprioception')))
  initialize.set_normalization(network, found)
  together = np.concatenate(sets)
  np.testing.assert_allclose(kept, [together.mean(0), together.std(0)], rtol=1e-6)
  found['1']['proprioception'] = None
  with pytest.raises(ValueError, match=r"adapters of \['1'\] name no proprioception"):
    initialize.set_normalization(network, found)
  initialize.set_normalization(models.build(tiny_training.TinyConfig(), seed=0), found)  # it uses no state


def test_the_multiview_network_starts_from_the_image_encoder_of_rt1(monkeypatch):
  """TokenLearner has the same names and shapes in both, and another input."""
  rt1 = models.build(dataclasses.replace(SMALL, token_width=32, image_tokens=8), seed=1)
  monkeypatch.setattr(pretrained, 'open_weights', lambda path: pretrained.opened(rt1))
  model = models.build(RT1MultiviewConfig(
      views=2, image_size=(16, 16), width=32, heads=2, layers=1, hidden=64, encoder=SMALL.encoder), seed=0)
  report = initialize.start_from(model, 'WEIGHTS')
  theirs, ours = parameters.named(rt1), parameters.named(model)
  shared = [name for name in ours if name.startswith('image_encoder/')]
  assert any(name.startswith('token_learner/') for name in initialize.matching(theirs, ours))
  for name in shared:
    np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
  assert f'loaded: {len(shared)} variables' in report and 'transformer' not in report.split('left out')[0]
