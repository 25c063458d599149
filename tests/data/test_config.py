"""Weights and refusals of the pipeline's settings."""
import pytest

from rtjax.data.config import DataConfig, ImageTextConfig, TaskWeights


def test_weights_given_and_default():
  assert DataConfig().mixture_weights(['a', 'b'], [150, 50]) == [0.75, 0.25]
  assert DataConfig(weights=(1, 3)).mixture_weights(['a', 'b'], [150, 50]) == [0.25, 0.75]
  with pytest.raises(ValueError, match=r'1 weights .* for 2 datasets'):
    DataConfig(weights=(1,)).mixture_weights(['a', 'b'], [1, 1])


@pytest.mark.parametrize(('config', 'options', 'words'), [
    (DataConfig, {'weights': (1, 0)}, 'positive numbers'),
    (DataConfig, {'weights': (float('nan'),)}, 'positive numbers'),
    (DataConfig, {'stride': 0}, 'stride is 0'),
    (DataConfig, {'image_size': (8, 0)}, 'image_size is'),
    (DataConfig, {'views': ('wrist', 'wrist')}, 'expected each camera once'),
    (ImageTextConfig, {'tasks': TaskWeights(0, 0, 0, 0)}, 'one of them positive'),
    (ImageTextConfig, {'weights': (0,)}, 'expected positive numbers'),
    (ImageTextConfig, {'threads': -1}, 'threads -1')])
def test_wrong_settings(config, options, words):
  with pytest.raises(ValueError, match=words):
    config(**options)
