"""RT-2 on public backbones, from downloaded folders to a robot: random weights in the published layout."""
import dataclasses
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers import public_backbones, rt2_training, tiny_training
from helpers.fakes import serving
from helpers.paths import ROOT
from rtjax_client import RemotePolicy

import rtjax
from rtjax import actions, configs, models
from rtjax.export import check, stablehlo
from rtjax.export import safetensors as safetensors_export
from rtjax.export.step import Step
from rtjax.models import parameters
from rtjax.models.layers.lora import LoraConfig
from rtjax.policies.policy import BatchPolicy, Policy
from rtjax.runtime import cli
from rtjax.training import loop

pytest.importorskip('tokenizers', reason="needs the extra 'language'")
FAMILIES = ['paligemma', *(pytest.param(name, marks=pytest.mark.slow) for name in ('t5gemma2', 'pali_mt5'))]
SIZE = (16, 20)


def model_config(family, **changes):
  """The preset's way to act, at the size of the tests; the backbone is the preset's where a folder replaces it."""
  preset = configs.get(f'rt2_{family}').model
  backbone = public_backbones.CONFIGS[family] if family == 'pali_mt5' else preset.backbone
  return dataclasses.replace(preset, **{
      'action_spec': actions.ARM_7D, 'backbone': backbone, 'prompt_length': 70, 'answer_length': 10, 'dtype': 'float32',
      'remat': False} | changes)


def train(family, output, init, questions, **changes):
  """Two steps of stage 2, robot windows beside questions."""
  model = model_config(family, **changes.pop('model', {}))
  return loop.train(rt2_training.config(output, questions, data=('colours',), init=init, model=model, **(
      {'steps': 2, 'batch_size': 4} | changes)), data=tiny_training.data())


@pytest.fixture(scope='module', params=FAMILIES)
def stage_two(request, tmp_path_factory, questions):
  """Family, settings of `init`, and a finished run."""
  folder = tmp_path_factory.mktemp(request.param)
  init = public_backbones.write(request.param, folder)
  return request.param, init, train(request.param, folder / 'run', init, questions).run


def test_starts_from_the_published_weights(stage_two, questions, tmp_path, capsys):
  """After a step at a learning rate of zero, all of the backbone is the folder's."""
  family, init, _ = stage_two
  run = train(family, tmp_path / 'run', init, questions, steps=1, optimizer=dataclasses.replace(
      rt2_training.config(tmp_path, questions).optimizer, learning_rate=0.0)).run
  assert 'left out: 0 variables' in capsys.readouterr().out
  model, published = rtjax.load_model(run), models.build(public_backbones.CONFIGS[family], seed=3)
  ours = parameters.named(model.backbone)
  for name, value in parameters.named(published).items():
    if family != 'pali_mt5' or not name.startswith('projection/'):  # new: the two parts were never trained together
      np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_resumes_without_the_folder(stage_two, questions, tmp_path):
  """Two steps and two more; the run's checkpoint holds architecture and tokenizer."""
  family, init, run = stage_two
  moved = {name: str(tmp_path / 'gone') for name in init}
  config = json.loads((run / 'config.json').read_text())
  copy = tmp_path / 'run'
  shutil.copytree(run, copy)
  config['init'] |= moved
  (copy / 'config.json').write_text(json.dumps(config))
  assert train(family, copy, moved, questions, steps=4).step == 4


def test_an_episode_in_the_tabletop(stage_two, tmp_path, monkeypatch):
  pytest.importorskip('mujoco', reason="needs the extra 'sim'")
  _, _, run = stage_two
  monkeypatch.setattr(sys, 'argv', ['eval.py', str(run), '--env', 'tabletop', '--skills', 'pick', '--split', 'seen',
                                    '--image-size', '16', '16', '--episodes', '1', '--environments', '1', '--output',
                                    str(tmp_path)])
  cli.run('rtjax.eval')
  (policy,) = json.loads((tmp_path / 'report.json').read_text())['policies']
  assert policy['episodes'][0]['steps'] > 0 and policy['summary']['latency_ms']['p50'] > 0


def test_the_server_and_exports_act_as_the_policy(stage_two, tmp_path):
  require_equal_actions(stage_two[2], tmp_path)


@pytest.mark.slow
def test_the_server_and_exports_act_as_an_adapted_classifier(stage_two, questions, tmp_path):
  family, init, _ = stage_two
  run = train(family, tmp_path / 'run', init | {'trainable': 'lora'}, questions, model={
      'action_head': 'classifier', 'lora': LoraConfig(rank=2)}).run
  require_equal_actions(run, tmp_path)


def require_equal_actions(run, tmp_path):
  """Compare policy, server, and exports of the merged model."""
  policy = rtjax.load_policy(run)
  model, images = policy.model, np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), dtype=np.uint8)
  with (serving(BatchPolicy(model, 1, policy.metadata), size=SIZE) as (_, port),
        RemotePolicy(port=port) as remote):
    remote.reset('pick up the red cube')
    policy.reset('pick up the red cube')
    for image in images:
      expected = policy.step(image)
      np.testing.assert_array_equal(remote.step(image).tokens, expected.tokens)
  model = model.merged()
  step = Step(model, SIZE)
  episodes = check.noise_frames(step, 6)
  for export in (stablehlo, safetensors_export):
    folder = tmp_path / export.__name__.split('.')[-1]
    folder.mkdir()
    export.save(step, folder, False)
    result = check.compare(check.reference(Policy(model), episodes), export.load(folder, step), step, episodes)
    assert result.agrees and result.equal == result.tokens


def test_questions_are_answered_in_words(stage_two):
  model = rtjax.load_model(stage_two[2])
  answers = model.generate(np.zeros((2, 16, 16, 3), np.uint8), ['what color is it?'] * 2, task='vqa')
  assert len(answers) == 2 and all(isinstance(answer, str) for answer in answers)


@pytest.mark.parametrize('trainable', [
    'lora', pytest.param('heads', marks=pytest.mark.slow), pytest.param('decoder', marks=pytest.mark.slow)])
def test_frozen_parts_stay(stage_two, questions, tmp_path, trainable):
  """By classifier: the other way to act than that of most presets."""
  family, init, _ = stage_two
  run = train(family, tmp_path / 'run', init | {'trainable': trainable}, questions, steps=1, model={
      'action_head': 'classifier', 'lora': LoraConfig(rank=2)}).run
  model, published = rtjax.load_model(run), parameters.named(models.build(public_backbones.CONFIGS[family], seed=3))
  ours = parameters.named(model.backbone)
  in_decoder = re.compile(model.config.backbone.partitions['decoder']).match
  decoder = tuple(filter(in_decoder, published))
  assert any(np.any(ours[name] != published[name]) for name in decoder) == (trainable == 'decoder')
  for name, value in published.items():
    if name not in decoder and (family != 'pali_mt5' or not name.startswith('projection/')):
      np.testing.assert_array_equal(ours[name], value, err_msg=name)
  moved = [name for name, value in ours.items() if name.endswith('lora_b') and np.any(value)]
  assert bool(moved) == (trainable != 'heads')
  assert trainable == 'lora' or all(map(in_decoder, moved))
  assert np.any(parameters.named(model)['classifier/bias'])


@pytest.mark.slow
@pytest.mark.parametrize('family, trainable', [
    ('paligemma', 'full'), ('paligemma', 'lora'), ('t5gemma2', 'full'), ('pali_mt5', 'full')])
def test_eight_devices_take_the_steps_of_one(family, trainable):
  """With data, fsdp and tensor axes, robot windows beside texts."""
  command = [sys.executable, ROOT / 'tests/helpers/rt2_layouts.py', family, trainable]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  found = json.loads(done.stdout.splitlines()[-1])
  single, split = found['single'], found['split']
  np.testing.assert_allclose(split['losses'], single['losses'], rtol=2e-4)
  assert single['losses'][-1] != single['losses'][0]
  divided = {name: np.divide(*shapes) for name, shapes in split['shapes'].items()}
  (table,) = [ratio.tolist() for name, ratio in divided.items() if name.endswith('token_embedding/embedding')]
  assert table == [2, 2]  # tensor and fsdp
  assert all(shapes[0] == shapes[1] for shapes in single['shapes'].values())


def test_a_part_is_no_backbone(tmp_path, questions):
  init = public_backbones.write('pali_mt5', tmp_path)
  with pytest.raises(ValueError, match=r'holds a T5, the model is on PaliGemma\. Give it as --init\.text'):
    train('paligemma', tmp_path / 'run', {'backbone': init['text']}, questions)
  with pytest.raises(ValueError, match='the whole or its parts'):
    train('paligemma', tmp_path / 'run', {'backbone': init['text'], 'text': init['text']}, questions)


def test_a_backbone_of_another_preset(tmp_path, questions):
  init = public_backbones.write('t5gemma2', tmp_path)
  with pytest.raises(ValueError, match=r'holds a T5Gemma2, the model is on PaliGemma\. Use the preset'):
    train('paligemma', tmp_path / 'run', init, questions)


def test_a_folder_without_its_tokenizer(tmp_path, questions):
  init = public_backbones.write('paligemma', tmp_path)
  (tmp_path / 'paligemma/tokenizer.json').unlink()
  with pytest.raises(FileNotFoundError, match=r'--init.backbone .* holds no .*tokenizer.json.*--init.tokenizer'):
    train('paligemma', tmp_path / 'run', init, questions)
