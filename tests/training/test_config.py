"""Configuration of a run: its groups, and fields that a resume may change."""
import dataclasses
import pathlib

import pytest
from helpers import rt2_training, tiny_training

from rtjax import configs
from rtjax.models import RT1Config
from rtjax.runtime import serialization
from rtjax.training.config import (
    CheckpointConfig,
    DistillationConfig,
    InitConfig,
    LoggingConfig,
    MeshConfig,
    TextConfig,
    TrainConfig,
    ValidationConfig,
    VisionLanguageInit,
    check_same_run,
)

RUN = pathlib.Path('checkpoints/run')


def stored(config):
  return serialization.to_json(config)


@pytest.mark.parametrize('groups, message', [
    ({'steps': 0}, 'steps is 0, it must be at least 1'),
    ({'init': InitConfig(prune=True)}, r'init\.prune is set without init\.weights'),
    ({'text': TextConfig()}, 'text is set, and this model learns actions alone'),
    ({'init': VisionLanguageInit(trainable='decoder')}, r"init\.trainable is 'decoder', expected one of \['full'\]"),
    ({'model': rt2_training.MODEL, 'init': VisionLanguageInit(trainable='lora')}, r'set --model\.lora\.rank 8'),
    ({'model': rt2_training.MODEL, 'distillation': DistillationConfig()}, 'this model does not support it'),
])
def test_groups_that_do_not_fit(groups, message):
  with pytest.raises(ValueError, match=message):
    TrainConfig(**groups)


@pytest.mark.parametrize('group, fields, message', [
    (CheckpointConfig, {'keep': 1}, r'checkpoints\.keep is 1'),
    (CheckpointConfig, {'every': 0}, r'checkpoints\.every is 0'),
    (ValidationConfig, {'every': -1}, r'validation\.every is -1'),
    (ValidationConfig, {'batches': -1}, r'validation\.batches is -1'),
    (LoggingConfig, {'every': 0}, r'logging\.every is 0'),
    (TextConfig, {'loss_weight': -1}, r'text\.loss_weight is -1'),
    (TextConfig, {'batch_size': 0}, r'text\.batch_size is 0'),
    (DistillationConfig, {'weight': 1.5}, r'distillation\.weight is 1\.5'),
])
def test_fields_out_of_range(group, fields, message):
  with pytest.raises(ValueError, match=message):
    group(**fields)


def test_another_configuration_is_refused_with_the_differing_fields():
  config = tiny_training.config(RUN)
  other = dataclasses.replace(config, seed=1, batch_size=8, model=tiny_training.TinyConfig(width=32))
  with pytest.raises(ValueError, match='another configuration') as caught:
    check_same_run(stored(config), other, RUN)
  for expected in ('seed: 0 there, 1 now', 'batch_size: 16 there, 8 now', 'model.width: 64 there, 32 now', '--init'):
    assert expected in str(caught.value)
  assert 'steps' not in str(caught.value).split('To resume')[0]


def test_groups_that_the_parameters_do_not_depend_on_may_change():
  config = TrainConfig(distillation=DistillationConfig())
  check_same_run(stored(config), dataclasses.replace(
      config, output='elsewhere', data=('moved',), steps=10 ** 6, logging=LoggingConfig(every=7),
      checkpoints=CheckpointConfig(keep=3),
      validation=ValidationConfig(every=0), mesh=MeshConfig(fsdp=2),
      pipeline=dataclasses.replace(config.pipeline, threads=3, cache_dir='cache')), RUN)
  for changes in ({'distillation': None}, {'init': InitConfig('weights')}, {'model': RT1Config(dropout=0.0)},
                  {'pipeline': dataclasses.replace(config.pipeline, stride=2)}):
    with pytest.raises(ValueError, match='another configuration'):
      check_same_run(stored(config), dataclasses.replace(config, **changes), RUN)


def test_partitions_select_parameters():
  assert TrainConfig().is_trainable is None
  is_trainable = TrainConfig(model=rt2_training.MODEL, init=VisionLanguageInit(trainable='decoder')).is_trainable
  assert is_trainable('backbone/text/decoder/norm/scale') and is_trainable('classifier/queries')
  assert not is_trainable('backbone/vision/norm/scale') and not is_trainable('backbone/text/encoder/norm/scale')


@pytest.mark.parametrize('preset', configs.names())
def test_every_preset_is_the_same_run_as_itself(preset):
  assert check_same_run(stored(configs.get(preset)), configs.get(preset), RUN) == {}


def test_settings_that_a_run_of_an_older_version_lacks_have_their_defaults():
  config = tiny_training.config(RUN)
  older = stored(config)
  del older['model']['width'], older['optimizer']['ema_decay'], older['mesh'], older['logging']['profile']
  assert check_same_run(older, config, RUN) == {'model.width': 64, 'optimizer.ema_decay': 0.0}  # mesh may differ anyway
  other = dataclasses.replace(config, model=tiny_training.TinyConfig(width=32))
  with pytest.raises(ValueError, match=r'model\.width: 64 there \(default\), 32 now'):
    check_same_run(older, other, RUN)


@pytest.mark.parametrize('group', ['', 'model', 'optimizer', 'logging'])
def test_settings_of_a_later_version_are_refused(group):
  config = tiny_training.config(RUN)
  later = stored(config)
  (later[group] if group else later)['later'] = 1
  with pytest.raises(serialization.UnreadableError, match=r'unknown settings \(later\)'):
    check_same_run(later, config, RUN)
