"""Low-rank adapters in a tiny RT-2."""
import dataclasses

import numpy as np
import pytest
from helpers import tiny_rt2
from helpers.tiny_rt2 import randomised

from rtjax import models
from rtjax.models.layers import lora
from rtjax.models.layers.lora import LoraConfig


def test_new_adapters_change_nothing_and_merged_ones_compute_the_same():
  plain = randomised(tiny_rt2.TINY)
  adapted = models.build(tiny_rt2.ADAPTED, seed=1)
  values = models.parameters.named(adapted)
  added = [name for name in values if name not in models.parameters.named(plain)]
  kernels = models.parameters.each_layer(lora.merged_kernels(adapted))
  assert len(added) == 2 * len(kernels) > 0 and all(map(lora.is_adapter, added))
  models.parameters.assign(adapted, values | models.parameters.named(plain))
  observation = tiny_rt2.robot_batch(tiny_rt2.TINY, 4).observation
  inputs = observation.images, observation.prompt
  np.testing.assert_array_equal(adapted(*inputs), plain(*inputs))

  random = np.random.default_rng(0)
  moved = {name: random.normal(size=values[name].shape) * 0.3 for name in added}
  models.parameters.assign(adapted, models.parameters.named(adapted) | moved)
  before = adapted(*inputs)
  assert np.abs(before - plain(*inputs)).max() > 0.05
  merged = adapted.merged()
  assert merged.config == tiny_rt2.TINY and plain.merged() is plain
  assert models.parameters.shapes(merged) == models.parameters.shapes(plain)
  np.testing.assert_allclose(merged(*inputs), before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('change, message', [
    ({'rank': -1}, 'lora.rank is -1'), ({'targets': '('}, 'which is no regular expression')])
def test_bad_configurations(change, message):
  with pytest.raises(ValueError, match=message):
    LoraConfig(**change)


def test_targets_that_match_nothing():
  config = dataclasses.replace(tiny_rt2.TINY, lora=LoraConfig(rank=2, targets='nothing$'))
  with pytest.raises(ValueError, match=r"lora.targets is 'nothing\$', which matches none of the names"):
    models.abstract(config)


def test_some_layers_of_a_stack_cannot_be_adapted_alone():
  config = dataclasses.replace(tiny_rt2.TINY, lora=LoraConfig(rank=2, targets='text/encoder/layers/0/attention/query$'))
  with pytest.raises(ValueError, match=r'names 1 of the 2 layers in backbone/text/encoder/layers/stacked'):
    models.abstract(config)
