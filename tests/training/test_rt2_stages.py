"""RT-2 in the one trainer: both stages, what is frozen, how losses weigh, where a run comes from."""
import dataclasses
import functools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import tiny_rt2, tiny_training
from PIL import Image

import rtjax
from rtjax import models
from rtjax.data.augment import AugmentConfig
from rtjax.evaluation.language import answers
from rtjax.language.tokenizer import Tokenizer
from rtjax.models import vocabulary
from rtjax.models.layers.lora import LoraConfig
from rtjax.training import checkpoint, cotrain, lineage, loop, optimizer, sharding, state
from rtjax.training.config import TrainConfig
from rtjax.training.optimizer import OptimizerConfig
from rtjax.training.step import train_step

COLOURS = ('red', 'green', 'blue', 'yellow')
MODEL = dataclasses.replace(
    tiny_rt2.TINY, action_spec=tiny_training.SPEC, action_ids=(), prompt_length=20, answer_length=6,
    text=dataclasses.replace(tiny_rt2.TINY.text, vocab_size=1536, encoder_layers=1, decoder_layers=1))


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
  """Questions about pictures whose answer is a function of the picture."""
  folder = tmp_path_factory.mktemp('pictures')
  for colour in COLOURS:
    Image.new('RGB', (16, 16), colour).save(folder / f'{colour}.png')
  asked = [{'image': f'{colour}.png', 'question': 'what color is it?', 'answer': colour} for colour in COLOURS]
  for split, lines in (('train', 4 * asked), ('val', [*asked, {'image': 'red.png', 'caption': 'it is red'}])):
    (folder / f'{split}.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  return str(folder)


def config(output, pictures, **changes):
  given = {'output': str(output), 'steps': 4, 'batch_size': 8, 'log_every': 1, 'save_every': 2, 'validate_every': 2,
           'image_text': (pictures,), 'image_text_batch_size': 4, 'model': MODEL, 'tensorboard': False,
           'augment': AugmentConfig(crop=False), 'optimizer': OptimizerConfig(learning_rate=1e-2, warmup_steps=1)}
  return TrainConfig(**given | changes)


def rows(run):
  return [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]


@pytest.fixture(scope='module')
def stages(tmp_path_factory, pictures):
  """Stage 1 on pictures with texts alone, and stage 2 on robots too, from its weights. Copy before touching."""
  runs = tmp_path_factory.mktemp('stages')
  loop.train(config(runs / 'one', pictures))
  loop.train(config(runs / 'two', pictures, data=('colours',), init_from=str(runs / 'one')), data=tiny_training.data())
  return runs


def test_stage_one_validates_what_the_model_writes(stages):
  last = rows(stages / 'one')[-1]
  assert {f'validation/{name}' for name in ('loss', 'text_accuracy', 'answers/vqa', 'answers/caption')} <= {*last}
  assert 0 <= last['validation/answers/vqa'] <= 1 and 'validation/answers/match' not in last
  assert last['validation/loss'] == pytest.approx(last['validation/text_loss'])
  assert not any('accuracy_per_token' in name for name in last)


def test_a_missing_split_shows_before_training(pictures, tmp_path):
  from rtjax.data.config import ImageTextConfig
  with pytest.raises(FileNotFoundError, match="no split 'test'"):
    loop.train(config(tmp_path / 'run', pictures, image_text_pipeline=ImageTextConfig(validation_split='test')))
  assert not (tmp_path / 'run').exists()


def test_few_validation_batches_hold_every_kind(pictures, tmp_path):
  from rtjax.training.text_input import Texts
  texts = Texts(config(tmp_path, pictures, batch_size=2, model=vocabulary.fitted(MODEL, Tokenizer())), Tokenizer())
  texts.stream.close()
  kinds = [batch['text_kinds'].tolist() for batch in texts.validation()]
  assert kinds == [[1, -1], [2, 2], [2, 2]]


def test_pointing_outside_the_grid_is_refused(tmp_path):
  from rtjax.training.text_input import Texts
  Image.new('RGB', (16, 16)).save(tmp_path / 'black.png')
  (tmp_path / 'train.jsonl').write_text(json.dumps({'image': 'black.png', 'point': 'the hole', 'answer': '2 0'}))
  model = dataclasses.replace(tiny_rt2.SEEKING, action_spec=tiny_training.SPEC, action_ids=(), prompt_length=20, answer_length=6,
                              text=MODEL.text)
  for cells in (3, 2):
    fits = vocabulary.fitted(dataclasses.replace(model, point_cells=cells), Tokenizer())
    texts = Texts(config(tmp_path / 'run', str(tmp_path), batch_size=2, model=fits), Tokenizer())
    try:
      if cells == 3:
        assert texts.next()['text_points'].tolist() == [[2, 0], [2, 0]]
        continue
      with pytest.raises(ValueError, match=r'column and row \[2, 0\] are pointed at, outside the grid'):
        texts.next()
    finally:
      texts.stream.close()


def test_stage_two_learns_actions_and_texts_and_knows_where_it_came_from(stages):
  found = rows(stages / 'two')
  train = next(row for row in found if 'grad_norm' in row)
  assert train['loss'] == pytest.approx(train['action_loss'] + 0.1 * train['text_loss'], rel=1e-5)
  last = found[-1]
  assert last['validation/loss'] == pytest.approx(
      last['validation/action_loss'] + 0.1 * last['validation/text_loss'], rel=1e-5)
  assert 'validation/answers/vqa' in last and 'validation/accuracy_per_token/move[0]' in last
  origin = checkpoint.read_metadata(stages / 'two')['origin']
  assert origin['init_from'] == str(stages / 'one') and origin['step'] == 4 and origin['data'] == []
  assert origin['metrics']['validation/loss'] == rows(stages / 'one')[-1]['validation/loss']
  assert origin['origin'] == {}


def test_a_checkpoint_acts_and_answers_with_nothing_else(stages):
  policy = rtjax.load_policy(stages / 'two')
  assert policy.embedding_id == Tokenizer().id
  policy.reset('pick up the red cube')
  assert policy.step(np.zeros((16, 16, 3), np.uint8)).tokens.shape == (3,)
  with pytest.raises(ValueError, match=r'has \d+ tokens, its end included, at most 20 are allowed'):
    policy.reset('pick up ' + 'the red cube and ' * 10)
  model = rtjax.load_model(stages / 'two')
  pictures = np.zeros((2, 16, 16, 3), np.uint8)
  answers = model.generate(pictures, ['what color is it?', 'how many?'], task='vqa')
  assert len(answers) == 2 and all(isinstance(answer, str) for answer in answers)
  assert answers == model.generate(pictures, ['Answer: what color is it?', 'Answer: how many?'])
  with pytest.raises(ValueError, match=r"unknown task 'vqaa', expected one of .* Did you mean 'vqa'"):
    model.generate(pictures, ['what?', 'who?'], task='vqaa')


class KnowsColours:
  """Answers by what the picture shows, but takes yellow for red."""

  def __init__(self, model):
    self.config, self.vocabulary = model.config, model.vocabulary

  def generate(self, images, ids):
    seen = [{(255, 0, 0): 'red', (0, 128, 0): 'green', (0, 0, 255): 'blue'}.get(tuple(picture[0, 0]), 'red')
            for picture in images]
    return self.vocabulary.encode(seen, self.config.answer_length)


def test_held_out_answers_are_counted_before_and_after(stages, pictures):
  found = answers.judge(str(stages / 'two'), [pictures])
  assert found['origin'] == str(stages / 'one')
  shown = np.stack([np.asarray(Image.new('RGB', (16, 16), colour)) for colour in COLOURS])
  for when, run in (('before', 'one'), ('after', 'two')):
    said = rtjax.load_model(stages / run).generate(shown, ['what color is it?'] * 4, task='vqa')
    assert found[when]['vqa']['correct'] == sum(map(str.__eq__, said, COLOURS)) and found[when]['vqa']['count'] == 4
    assert set(found[when]) == {'vqa'}  # the caption does not count
  right = answers.accuracy(KnowsColours(rtjax.load_model(stages / 'two')), [pictures])
  assert (right['vqa']['correct'], right['vqa']['count']) == (3, 4)
  assert answers.blind([pictures])['vqa']['correct'] == 1
  shutil.move(stages / 'one', stages / 'gone')
  try:
    assert answers.judge(str(stages / 'two'), [pictures])['before'] is None
  finally:
    shutil.move(stages / 'gone', stages / 'one')


def test_a_resumed_run_ends_with_the_same_bits(stages, pictures, tmp_path):
  whole = stages / 'two'
  run = tmp_path / 'two'
  shutil.copytree(whole, run)
  shutil.rmtree(run / 'checkpoints/4')
  loop.train(config(run, pictures, data=('colours',), init_from=str(stages / 'one')), data=tiny_training.data())
  (_, ours), (metadata, theirs) = checkpoint.load(run), checkpoint.load(whole)
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  assert checkpoint.read_metadata(run)['origin'] == metadata['origin']


def test_another_vocabulary_is_refused(stages, pictures, tmp_path):
  path = _own_vocabulary(tmp_path)
  with pytest.raises(ValueError, match=r'was trained on the vocabulary .* Leave --vocabulary out'):
    loop.train(config(tmp_path / 'run', pictures, init_from=str(stages / 'one'), vocabulary=str(path)))


def test_a_vocabulary_larger_than_the_network_is_refused(pictures, tmp_path):
  small = dataclasses.replace(MODEL, text=dataclasses.replace(MODEL.text, vocab_size=1000))
  with pytest.raises(ValueError, match='has 1536 tokens, the network has embeddings for 1000'):
    loop.train(config(tmp_path / 'run', pictures, model=small))


def test_a_damaged_vocabulary_is_refused(stages, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(stages / 'one', run)
  for file in (run / 'checkpoints').glob('*/metadata/metadata'):
    file.write_text(re.sub(r'rtjax/[0-9a-f]{12}', 'rtjax/000000000000', file.read_text()))
  with pytest.raises(ValueError, match="expected 'rtjax/000000000000': the file was changed"):
    rtjax.load_model(run)


def _own_vocabulary(folder):
  import sentencepiece
  text = folder / 'text.txt'
  text.write_text('\n'.join(f'pick up the {colour} {number} {thing}' for colour in COLOURS for number in range(300)
                            for thing in ('cube', 'ball', 'cup')))
  sentencepiece.SentencePieceTrainer.train(
      input=str(text), model_prefix=str(folder / 'own'), vocab_size=330, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
      hard_vocab_limit=False, minloglevel=2)
  return folder / 'own.model'


@pytest.mark.parametrize('changes, message', [
    ({'trainable': 'lora'}, 'say --model.lora.rank 8'),
    ({'model': models.RT1Config(), 'trainable': 'decoder', 'image_text': ()}, r"expected one of \['full'\]"),
    ({'model': models.RT1Config()}, 'image_text is for RT-2'),
    ({'vqa_weight': -1}, 'vqa_weight is -1'), ({'image_text_batch_size': 0}, 'image_text_batch_size is 0')])
def test_bad_settings(changes, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    config(tmp_path / 'run', 'pictures', **changes)


@pytest.mark.parametrize('trainable', ['decoder', 'lora'])
def test_what_is_frozen_stays_bitwise_the_same_and_needs_no_memory(trainable, stages, pictures, tmp_path):
  adapted = dataclasses.replace(MODEL, lora=LoraConfig(rank=2))
  settings = config(tmp_path / 'run', pictures, data=('colours',), init_from=str(stages / 'one'), trainable=trainable,
                    model=adapted if trainable == 'lora' else MODEL)
  loop.train(settings, data=tiny_training.data())
  before = models.parameters.named(rtjax.load_model(stages / 'one'))
  after = models.parameters.named(rtjax.load_model(tmp_path / 'run'))
  moved = {name for name in before if not np.array_equal(before[name], after[name])}
  expected = ('queries', 'heads') + (('text/decoder', 'text/token_head') if trainable == 'decoder' else ())
  assert moved and all(name.startswith(expected) for name in moved)
  assert all(any(name.startswith(part) for name in moved) for part in expected)
  if trainable == 'lora':
    assert all(np.any(after[name] != 0) for name in after if name.endswith('lora_b'))
  _, params, _, constants = state.split(models.abstract(settings.model), settings.trains)
  moments = jax.eval_shape(optimizer.build(settings.optimizer, 4).init, params)
  for tree in (params, moments):
    assert not [name for name in state.named(tree) if name.split('/', 2)[-1].startswith(('vision', 'text/encoder'))
                and 'lora' not in name]
  assert state.count(moments) < 2 * state.count(params) + 10 and state.count(constants) > state.count(params)


@functools.cache
def built(model, trainable='full'):
  settings = TrainConfig(model=model, trainable=trainable)
  return state.split(models.build(model, rngs=nnx.Rngs(0)), settings.trains)


def one_step(model, batch, weight, micro_batches=1):
  sgd = optax.sgd(1.0)
  graphdef, *trees = built(model)
  first = state.create(*trees, jax.random.key(0), optimizer=sgd, ema=False)
  after, outputs = jax.jit(functools.partial(
      train_step, graphdef=graphdef, optimizer=sgd, micro_batches=micro_batches,
      balance=functools.partial(cotrain.balance, weight=weight)))(first, batch)
  return jax.tree.map(lambda a, b: a - b, first.params, after.params), outputs


@pytest.mark.parametrize('model, micro_batches', [(tiny_rt2.TINY, 1), (tiny_rt2.TEXT, 2)], ids=['heads', 'text'])
def test_the_losses_weigh_what_the_configuration_says(model, micro_batches):
  """The gradient of a batch of both is that of the actions plus 0.1 times that of the texts, however it is cut up."""
  robots, texts = tiny_rt2.robot_batch(model, 4), tiny_rt2.text_batch(model, 8)
  robots['mask'][0] = False  # one that does not count
  del texts['text_weights']
  actions, action_row = one_step(model, robots, 0.1)
  language, text_row = one_step(model, texts, 0.1)
  both, row = one_step(model, robots | texts, 0.1, micro_batches)
  np.testing.assert_allclose(row['loss'], action_row['loss'] + 0.1 * text_row['loss'], rtol=1e-5)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-6), both,
               jax.tree.map(lambda a, t: a + 0.1 * t, actions, language))


def test_label_smoothing_is_for_training_alone():
  smooth = dataclasses.replace(tiny_rt2.TINY, label_smoothing=0.2)
  model, plain = (nnx.merge(built(tiny_rt2.TINY)[0], *nnx.split(models.build(c, rngs=nnx.Rngs(0)))[1:])
                  for c in (tiny_rt2.TINY, tiny_rt2.TINY))
  model.config = smooth
  batch = {name: jnp.asarray(array) for name, array in
           (tiny_rt2.robot_batch(smooth, 4) | tiny_rt2.text_batch(smooth, 4)).items()}
  judged, before = (m.loss(batch, train=False).total for m in (model, plain))
  np.testing.assert_array_equal(judged, before)
  logits = plain.apply(batch['images'], batch['embeddings'])[:, 0]
  labels = smooth.action_spec.tokenize(batch['actions'])[:, 0, 0]
  likely = jax.nn.log_softmax(logits)
  expected = -(0.8 * jnp.take_along_axis(likely, labels[..., None], -1)[..., 0] + 0.2 * likely.mean(-1)).mean()
  trained = model.loss({n: a for n, a in batch.items() if not n.startswith('text_')}, train=True)
  np.testing.assert_allclose(trained.total / trained.weight, expected, rtol=1e-5)


def test_adafactor_keeps_rows_and_columns():
  params = built(tiny_rt2.TINY)[1]
  large = {'kernel': jnp.zeros((256, 512)), 'bias': jnp.zeros(3)}
  adam, small = (optimizer.build(OptimizerConfig(kind=kind), 10).init(large) for kind in ('adam', 'adafactor'))
  assert state.count(adam) > 2 * 256 * 512 and state.count(small) < 2000
  mesh = sharding.make_mesh((1, 1, 1))
  assert jax.tree.structure(sharding.shardings(small, mesh)) == jax.tree.structure(small)
  transform = optimizer.build(OptimizerConfig(kind='adafactor', learning_rate=0.1, warmup_steps=0), 10)
  moments = transform.init(params)
  target = jax.tree.map(lambda p: p + 0.5, params)
  first = sum(jnp.sum((p - t) ** 2) for p, t in zip(jax.tree.leaves(params), jax.tree.leaves(target), strict=True))
  for _ in range(8):
    gradient = jax.tree.map(lambda p, t: p - t, params, target)
    updates, moments = transform.update(gradient, moments, params)
    params = jax.tree.map(jnp.add, params, updates)
  last = sum(jnp.sum((p - t) ** 2) for p, t in zip(jax.tree.leaves(params), jax.tree.leaves(target), strict=True))
  assert last < 0.3 * first


def test_parts_from_hugging_face(shared):
  """Each variable of the folder is there afterwards, the others as they were; what is new and left out is told."""
  from rtjax.pretrained import huggingface
  folders = {part: shared / 'parity/vlm' / case for part, case in (('vision', 'vit_classifier'), ('text', 't5_v11'))}
  if not all(folder.is_dir() for folder in folders.values()):
    pytest.skip('no published checkpoints in the folder of reference data')
  held = {part: huggingface.read(folder) for part, folder in folders.items()}
  # A network without the classifier, and of one layer more in the decoder.
  text = dataclasses.replace(held['text'].config, decoder_layers=held['text'].config.decoder_layers + 1)
  vision = dataclasses.replace(held['vision'].config, classes=0, pooler=False)
  model = models.build(dataclasses.replace(MODEL, vision=vision, text=text), rngs=nnx.Rngs(0))
  before = models.parameters.named(model)
  reports = [lineage.fill_part(model, part, folder) for part, folder in folders.items()]
  after = models.parameters.named(model)
  theirs = {f'{part}/{name}': value for part, found in held.items() for name, value in found.values.items()}
  for name, value in after.items():
    np.testing.assert_array_equal(value, theirs.get(name, before[name]), err_msg=name)
  new = f'decoder/layers/{text.decoder_layers - 1}'
  assert 'new: 14 variables' in reports[1] and f'text/{new}/attention/query/kernel' in reports[1]
  assert 'left out: 2 variables' in reports[0] and 'vision/classifier/kernel' in reports[0]
  with pytest.raises(ValueError, match='it holds a ViT, expected a T5'):
    lineage.fill_part(model, 'text', folders['vision'])
  with pytest.raises(ValueError, match=r'none of its .* variables fits the text part'):
    lineage.fill_part(models.build(MODEL, rngs=nnx.Rngs(0)), 'text', folders['text'])
  with pytest.raises(FileNotFoundError, match=r'holds no spiece\.model'):
    lineage.open_vocabulary(TrainConfig(model=MODEL, output='nowhere', text_from=str(folders['text'])))


def test_computing_layers_again_changes_no_gradient():
  """With dropout on, whose masks have to be the same the second time."""
  text = dataclasses.replace(tiny_rt2.TINY.text, dropout=0.2)
  base = dataclasses.replace(tiny_rt2.TINY, text=text)
  batch = {name: jnp.asarray(array) for name, array in
           (tiny_rt2.robot_batch(base, 4) | tiny_rt2.text_batch(base, 4)).items()}

  def gradient(**changes):
    graphdef, params, stats, constants = built(dataclasses.replace(base, **changes))

    def loss(params):
      terms = state.merge(graphdef, params, stats, constants).loss(batch, train=True, rngs=nnx.Rngs(0))
      return terms.total / terms.weight
    return jax.jit(jax.value_and_grad(loss))(params)

  (plain, expected), (again, found) = gradient(), gradient(remat=True)
  np.testing.assert_allclose(again, plain, rtol=1e-6)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found, expected)
