"""RT-2 in both stages: metrics, resume, frozen parameters, acting, answering."""
import dataclasses
import functools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import rt2_training, tiny_rt2, tiny_training
from helpers.compiled import Compiled
from helpers.rt2_training import COLOURS, MODEL, config
from PIL import Image

import rtjax
from rtjax import checkpoints, models, pretrained
from rtjax.evaluation.language import answers
from rtjax.language.tokenizer import Tokenizer
from rtjax.models import parameters
from rtjax.models.layers.lora import LoraConfig
from rtjax.training import lineage, loop, optimizer, state
from rtjax.training.config import ValidationConfig

ONE_LAYER = rt2_training.with_text_config(tiny_rt2.TINY, encoder_layers=1, decoder_layers=1)


def rows(run):
  return [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]


def test_stage_one_validates_generated_answers(stages):
  last = rows(stages / 'one')[-1]
  assert {f'validation/{name}' for name in ('loss', 'text_accuracy', 'answers/vqa', 'answers/caption')} <= {*last}
  assert 0 <= last['validation/answers/vqa'] <= 1 and 'validation/answers/match' not in last
  assert last['validation/loss'] == pytest.approx(last['validation/text_loss'])
  assert not any('accuracy_per_token' in name for name in last)


def test_stage_two_learns_actions_and_texts_and_keeps_its_lineage(stages):
  found = rows(stages / 'two')
  train = next(row for row in found if 'grad_norm' in row)
  assert train['loss'] == pytest.approx(train['action_loss'] + 0.1 * train['text_loss'], rel=1e-5)
  last = found[-1]
  assert last['validation/loss'] == pytest.approx(
      last['validation/action_loss'] + 0.1 * last['validation/text_loss'], rel=1e-5)
  assert 'validation/answers/vqa' in last and 'validation/accuracy_per_token/move[0]' in last
  lineage = checkpoints.read_json(stages / 'two')['lineage']
  assert lineage['weights'] == str(stages / 'one') and lineage['step'] == 4 and lineage['data'] == []
  assert len(lineage['text_data']) == 1
  assert lineage['metrics']['validation/loss'] == rows(stages / 'one')[-1]['validation/loss']
  assert lineage['lineage'] == {}


def test_a_checkpoint_acts_and_answers_with_nothing_else(stages):
  policy = rtjax.load_policy(stages / 'two')
  assert policy.metadata.embedding_id == Tokenizer().id
  policy.reset('pick up the red cube')
  assert policy.step(np.zeros((16, 16, 3), np.uint8)).tokens.shape == (3,)
  with pytest.raises(ValueError, match=r'has \d+ tokens, its end included, at most 20 are allowed'):
    policy.reset('pick up ' + 'the red cube and ' * 10)
  model = rtjax.load_model(stages / 'two')
  images = np.zeros((2, 16, 16, 3), np.uint8)
  found = model.generate(images, ['what color is it?', 'how many?'], task='vqa')
  assert len(found) == 2 and all(isinstance(answer, str) for answer in found)
  assert found == model.generate(images, ['Answer: what color is it?', 'Answer: how many?'])
  with pytest.raises(ValueError, match=r"unknown task 'vqaa', expected one of .* Did you mean 'vqa'"):
    model.generate(images, ['what?', 'who?'], task='vqaa')


class KnowsColours:
  """Answers with the colour of the image, but takes yellow for red."""

  def __init__(self, model):
    self.config, self.tokenizer = model.config, model.tokenizer

  def generate(self, images, ids):
    known = {(255, 0, 0): 'red', (0, 128, 0): 'green', (0, 0, 255): 'blue'}
    return self.tokenizer.encode([known.get(tuple(image[0, 0]), 'red') for image in images], self.config.answer_length)


def test_held_out_answers_are_counted_before_and_after(stages, questions):
  found = answers.evaluate_vqa(*pretrained.load(stages / 'two'), [questions])
  assert found['init_from'] == str(stages / 'one')
  shown = np.stack([np.asarray(Image.new('RGB', (16, 16), colour)) for colour in COLOURS])
  for when, run in (('before', 'one'), ('after', 'two')):
    generated = rtjax.load_model(stages / run).generate(shown, ['what color is it?'] * 4, task='vqa')
    assert found[when]['vqa']['correct'] == sum(map(str.__eq__, generated, COLOURS))
    assert found[when]['vqa']['count'] == 4
    assert set(found[when]) == {'vqa'}  # the caption does not count
  right = answers.accuracy(KnowsColours(rtjax.load_model(stages / 'two')), [questions])
  assert (right['vqa']['correct'], right['vqa']['count']) == (3, 4)
  assert answers.blind_accuracy([questions])['vqa']['correct'] == 1
  shutil.move(stages / 'one', stages / 'gone')
  try:
    assert answers.evaluate_vqa(*pretrained.load(stages / 'two'), [questions])['before'] is None
  finally:
    shutil.move(stages / 'gone', stages / 'one')


def test_a_resumed_run_ends_with_the_same_bits(stages, questions, tmp_path):
  complete = stages / 'two'
  run = tmp_path / 'two'
  shutil.copytree(complete, run)
  shutil.rmtree(run / 'checkpoints/4')
  loop.train(config(run, questions, data=('colours',), weights=stages / 'one'), data=tiny_training.data())
  (_, ours), (metadata, theirs) = checkpoints.load_weights(run), checkpoints.load_weights(complete)
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  assert checkpoints.read_json(run)['lineage'] == metadata['lineage']


def test_a_codec_is_fitted_on_the_data_and_kept(questions, tmp_path):
  pytest.importorskip('tokenizers', reason="needs the extra 'language'")
  data, read = tiny_training.data(), []

  def action_chunks(datasets, pipeline, spec, horizon):
    read.append((datasets, horizon))
    return np.random.default_rng(0).uniform(*spec.bounds, (50, horizon, spec.size))
  data.action_chunks = action_chunks
  model = dataclasses.replace(MODEL, action_head='fast', horizon=2, fast_size=64)
  settings = config(tmp_path / 'run', questions, data=('colours',), text={'data': ()}, model=model, steps=2,
                    validation=ValidationConfig(every=0))
  loop.train(settings, data=data)
  policy = rtjax.load_policy(tmp_path / 'run')
  policy.reset('pick up the red cube')
  plan = policy.step(np.zeros((16, 16, 3), np.uint8)).plan
  assert plan.shape == (2, 3) and np.isfinite(plan).all()
  later = config(tmp_path / 'other', questions, data=('colours',), weights=tmp_path / 'run', model=model)
  for again in (settings, later):
    assert lineage.with_codec(again, data) == dataclasses.replace(policy.config, action_ids=())
  assert read == [(('colours',), 2)]
  without = config(tmp_path / 'texts', questions, model=model)
  assert lineage.with_codec(without, data) == model


@pytest.mark.parametrize('trainable', [pytest.param('decoder', marks=pytest.mark.slow), 'lora'])
def test_frozen_parameters_stay_bitwise_the_same_and_need_no_memory(trainable, stages, questions, tmp_path):
  adapted = dataclasses.replace(MODEL, lora=LoraConfig(rank=2))
  settings = config(tmp_path / 'run', questions, data=('colours',), weights=stages / 'one',
                    init={'trainable': trainable}, model=adapted if trainable == 'lora' else MODEL)
  loop.train(settings, data=tiny_training.data())
  before = parameters.named(rtjax.load_model(stages / 'one'))
  after = parameters.named(rtjax.load_model(tmp_path / 'run'))
  moved = {name for name in before if not np.array_equal(before[name], after[name])}
  decoder = 'backbone/text/decoder', 'backbone/text/token_head'
  expected = ('classifier', *(decoder if trainable == 'decoder' else ()))
  assert moved and all(name.startswith(expected) for name in moved)
  assert all(any(name.startswith(part) for name in moved) for part in expected)
  if trainable == 'lora':
    assert all(np.any(after[name] != 0) for name in after if name.endswith('lora_b'))
  _, params, _, constants = state.split(models.abstract(settings.model), settings.is_trainable)
  moments = jax.eval_shape(optimizer.build(settings.optimizer, 4).init, params)
  for tree in (params, moments):
    names = [name for name in parameters.named_leaves(tree) if 'lora' not in name]
    assert names and not [name for name in names if re.search('backbone/(vision|text/encoder)/', name)]
  assert parameters.count(moments) < 2 * parameters.count(params) + 10
  assert parameters.count(constants) > parameters.count(params)


def test_label_smoothing_is_for_training_alone():
  smooth = dataclasses.replace(ONE_LAYER, label_smoothing=0.2)
  model, plain = (models.build(ONE_LAYER, seed=0) for _ in range(2))
  model.config = smooth
  batch = jax.device_put(dataclasses.replace(
      tiny_rt2.robot_batch(smooth, 4), text=tiny_rt2.text_batch(smooth, 4)))
  evaluated, before = (jax.jit(lambda batch, m=m: m.loss(batch, train=False).total)(batch) for m in (model, plain))
  np.testing.assert_array_equal(evaluated, before)
  logits = Compiled(plain).logits(batch.observation)[:, 0]
  labels = smooth.action_spec.tokenize(batch.actions)[:, 0, 0]
  likely = jax.nn.log_softmax(logits)
  expected = -(0.8 * jnp.take_along_axis(likely, labels[..., None], -1)[..., 0] + 0.2 * likely.mean(-1)).mean()
  trained = Compiled(model).loss(dataclasses.replace(batch, text=None), train=True)
  np.testing.assert_allclose(trained.total / trained.weight, expected, rtol=1e-5)


@pytest.mark.slow
def test_remat_changes_no_gradient():
  """Dropout masks are the same the second time."""
  base = rt2_training.with_text_config(ONE_LAYER, dropout=0.2)
  batch = jax.device_put(dataclasses.replace(
      tiny_rt2.robot_batch(base, 4), text=tiny_rt2.text_batch(base, 4)))

  graphdef, params, stats, constants = state.split(models.build(base, seed=0))
  with_remat, *_ = state.split(models.abstract(dataclasses.replace(base, remat=True)))

  def gradient(graphdef):
    def loss(params):
      terms = state.merge(graphdef, params, stats, constants).loss(batch, train=True, rngs=nnx.Rngs(0))
      return terms.total / terms.weight
    return jax.jit(jax.value_and_grad(loss))(params)

  (plain, expected), (again, found) = gradient(graphdef), gradient(with_remat)
  np.testing.assert_allclose(again, plain, rtol=1e-6)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found, expected)
