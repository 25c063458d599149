"""Instruction encoders, the table of a dataset's vectors, and which of them a policy takes."""
import subprocess
import sys

import numpy as np
import pytest

from rtjax.language import instructions
from rtjax.language.instructions import hashed_ngrams

USE = 'universal-sentence-encoder-large/5'
PLACES = [15, 43, 327, 454]
SIGNS = [0.5, 0.5, 0.5, -0.5]
TABLE = instructions.Table(USE, ('open the drawer', 'pick the can', 'zur Tür ▶'),
                           np.random.default_rng(0).normal(size=(3, 512)))


@pytest.fixture(scope='module')
def hub_folder(tmp_path_factory):
  """A SavedModel that is called as the Universal Sentence Encoder is; a text's vector is its length times a ramp."""
  tf = pytest.importorskip('tensorflow')

  class Encoder(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
      return tf.cast(tf.strings.length(texts), tf.float32)[:, None] * tf.range(512, dtype=tf.float32) / 512
  folder = tmp_path_factory.mktemp('hub') / USE
  tf.saved_model.save(Encoder(), str(folder))
  return folder


def test_places_are_fixed_for_good():
  """'red' is a word and the triples '<re', 'red', 'ed>': these places belong to hashed-ngrams/1."""
  vector = hashed_ngrams('red')
  assert vector.shape == (512,) and vector.dtype == np.float32
  np.testing.assert_array_equal(np.flatnonzero(vector), PLACES)
  np.testing.assert_array_equal(vector[PLACES], SIGNS)


def test_unit_norm_and_normal_form():
  for text in ('a', 'reach the red circle', 'open top drawer ' * 20):
    np.testing.assert_allclose(np.linalg.norm(hashed_ngrams(text)), 1, rtol=1e-6)
  np.testing.assert_array_equal(hashed_ngrams('Reach the RED circle.'), hashed_ngrams('reach  the red circle'))


@pytest.mark.parametrize('other', [
    'hebe den gru\u0308nen Wu\u0308rfel auf', '\ufeffhebe den grünen Würfel auf', ' hebe  den\u00a0grünen\tWürfel auf',
    'ｈｅｂｅ ｄｅｎ ｇｒüｎｅｎ Ｗüｒｆｅｌ ａｕｆ', 'hebe den grü\u00adnen Wür\u200bfel auf'])
def test_all_encoders_read_one_form_of_a_sentence(other, hub_folder):
  plain = 'hebe den grünen Würfel auf'
  table = instructions.Table(USE, (plain, 'another'), np.eye(2, 512))
  encoders = [instructions.HashedNgrams(), instructions.UniversalSentenceEncoder(hub_folder), table]
  encoders.append(instructions.PromptEncoder(pytest.importorskip('rtjax.language.tokenizer').Tokenizer(), 40))
  for encoder in encoders:
    np.testing.assert_array_equal(encoder([other]), encoder([plain]))


@pytest.mark.parametrize('text', ['', ' ...', '🍎', '?!', '\ufeff', '👉🏽 ♥'])
def test_a_text_without_a_word_is_refused_by_all(text, hub_folder):
  tokenizer = pytest.importorskip('rtjax.language.tokenizer').Tokenizer()
  table = instructions.Table(USE, (text, 'a'), np.zeros((2, 512)))
  for encoder in (instructions.HashedNgrams(), instructions.UniversalSentenceEncoder(hub_folder), table,
                  instructions.PromptEncoder(tokenizer, 40)):
    with pytest.raises(ValueError, match='carries no word'):
      encoder(['a', text])


def test_a_table_prefers_the_exact_sentence():
  table = instructions.Table(USE, ('pick  up', 'pick up'), np.eye(2, 512))
  np.testing.assert_array_equal(table(['pick up', 'pick  up', 'pick   up']), np.eye(2, 512)[[1, 0, 1]])


def test_closer_sentences_have_closer_vectors():
  start = hashed_ngrams('reach the red circle')
  one_word, two_words, other = (
      start @ hashed_ngrams(t) for t in ('touch the red circle', 'touch the red square', 'open a drawer'))
  assert 1 > one_word > two_words > other
  assert start @ hashed_ngrams('circle red the reach') < 0.95  # order counts


def test_every_encoder_keeps_the_protocol(hub_folder, tmp_path):
  TABLE.save(tmp_path / 'table.npz')
  for spec, id_ in [('hashed-ngrams/1', 'hashed-ngrams/1'), (hub_folder, USE), (tmp_path / 'table.npz', USE)]:
    encoder = instructions.open_encoder(spec)
    vectors = encoder(['pick the can', 'open the drawer', 'pick the can'])
    assert (encoder.id, encoder.size) == (id_, 512)
    assert vectors.dtype == np.float32 and vectors.shape == (3, 512)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert not np.array_equal(vectors[0], vectors[1])
    assert encoder([]).shape == (0, 512)
    with pytest.raises(ValueError, match="texts is 'pick the can', expected a list"):
      encoder('pick the can')


def test_saved_model_gets_the_strings(hub_folder):
  encoder = instructions.UniversalSentenceEncoder(hub_folder)
  np.testing.assert_array_equal(encoder(['four', 'a']), np.float32([[4], [1]]) * np.arange(512, dtype=np.float32) / 512)


def test_the_folder_says_which_encoder_it_is(hub_folder, tmp_path):
  (tmp_path / 'universal-sentence-encoder_4').symlink_to(hub_folder)
  assert instructions.open_encoder(tmp_path / 'universal-sentence-encoder_4').id == 'universal-sentence-encoder/4'
  (tmp_path / '063d866c06683').symlink_to(hub_folder)
  with pytest.raises(ValueError, match=r'does not tell which Universal Sentence Encoder.*encoder-large/5'):
    instructions.open_encoder(tmp_path / '063d866c06683')


def test_other_saved_models_are_refused(tmp_path):
  tf = pytest.importorskip('tensorflow')
  folder = tmp_path / USE
  with pytest.raises(FileNotFoundError, match='no such folder'):
    instructions.open_encoder(folder)
  folder.mkdir(parents=True)
  with pytest.raises(ValueError, match=r'it holds .*, expected a SavedModel'):
    instructions.open_encoder(folder)
  (folder / 'saved_model.pb').write_bytes(b'no model')
  with pytest.raises(ValueError, match='this SavedModel cannot be read'):
    instructions.open_encoder(folder)
  tf.saved_model.save(tf.Module(), str(folder))
  with pytest.raises(ValueError, match='cannot be called'):
    instructions.open_encoder(folder)


def test_table_looks_up_and_survives_the_file(tmp_path):
  TABLE.save(tmp_path / 'table')
  loaded = instructions.Table.load(tmp_path / 'table')
  assert (loaded.id, loaded.texts) == (TABLE.id, TABLE.texts)
  np.testing.assert_array_equal(loaded(['zur Tür ▶', 'open the drawer']), np.float32(TABLE.vectors)[[2, 0]])
  with pytest.raises(ValueError, match=r"'open the drawr' is not among the 3.*nearest are \['open the drawer', "):
    loaded(['pick the can', 'open the drawr'])


@pytest.mark.parametrize('content', [b'', b'PK\3\4 truncated', b'{"id": 1}'])
def test_another_file_is_no_table(tmp_path, content):
  (tmp_path / 'some.npz').write_bytes(content)
  with pytest.raises(ValueError, match='no table of instructions'):
    instructions.open_encoder(tmp_path / 'some.npz')


def test_another_npz_is_no_table(tmp_path):
  for held in ({'vectors': np.zeros(3)}, {'id': USE, 'texts': np.array(['a']), 'vectors': np.zeros((2, 5))},
               {'id': USE, 'texts': np.array(['a'], object), 'vectors': np.zeros((1, 5))}, {'arr': np.zeros(1)}):
    np.savez(tmp_path / 'some.npz', **held)
    with pytest.raises(ValueError, match='no table of instructions'):
      instructions.open_encoder(tmp_path / 'some.npz')
  np.save(tmp_path / 'one.npy', np.zeros(3))
  with pytest.raises(ValueError, match='no table of instructions'):
    instructions.open_encoder(tmp_path / 'one.npy')


def test_unknown_name_gets_the_nearest():
  with pytest.raises(FileNotFoundError, match=r"Did you mean 'hashed-ngrams/1'\?"):
    instructions.open_encoder('hashed_ngrams/1')


def test_a_policy_takes_the_encoder_it_was_trained_on():
  assert instructions.for_policy('hashed-ngrams/1').id == 'hashed-ngrams/1'
  assert instructions.for_policy(USE, TABLE) is TABLE
  assert instructions.for_policy('', TABLE) is TABLE
  with pytest.raises(ValueError, match=rf"'{USE}', which is not built in. Pass encoder="):
    instructions.for_policy(USE)
  with pytest.raises(ValueError, match='an unnamed encoder, which is not built in'):
    instructions.for_policy('')
  with pytest.raises(ValueError, match=rf"trained on.*'{USE}', the encoder given is 'hashed-ngrams/1'"):
    instructions.for_policy(USE, instructions.HashedNgrams())
  with pytest.raises(ValueError, match='universal-sentence-encoder-large/4'):
    instructions.for_policy('universal-sentence-encoder-large/4', TABLE)


def test_collect_keeps_the_first_vector_of_each_sentence():
  a, b = np.random.default_rng(0).normal(size=(2, 512)).astype(np.float32)
  table = instructions.collect(USE, [('b', b), ('a', a), ('b', b + np.float32(4e-7)), ('a', a)])
  assert table.texts == ('b', 'a') and table.id == USE
  np.testing.assert_array_equal(table.vectors, [b, a])


def test_collect_counts_the_sentences_whose_vectors_differ():
  one = np.zeros(4, np.float32)
  pairs = [('a', one), ('b', one), ('c', one), ('a', one + 1e-3), ('b', one + 0.25), ('b', one)]
  with pytest.raises(ValueError, match=r"2 of 3 sentences have several vectors, which differ by up to 0.25 \('b'\)"):
    instructions.collect(USE, pairs)
  with pytest.raises(ValueError, match='no sentence'):
    instructions.collect(USE, [])
  for vectors in ([one, one * np.nan], [one * np.nan, one]):
    with pytest.raises(ValueError, match="'a' holds NaN"):
      instructions.collect(USE, [('a', vector) for vector in vectors])


def test_table_of_a_dataset(tmp_path):
  """The command, in a process of its own, on a dataset with three sentences in two splits."""
  pytest.importorskip('tensorflow_datasets')
  from helpers import rlds_episodes
  made = [[dict(step, language_instruction=text, language_embedding=hashed_ngrams(text)) for step in
           rlds_episodes.episode('bridge_dataset', 2, seed)['steps']] for seed, text in enumerate('xyzx')]
  folder = rlds_episodes.write(tmp_path, 'bridge_dataset', {
      'train': [{'steps': steps} for steps in made[:2]], 'val': [{'steps': steps} for steps in made[2:]]})
  command = [sys.executable, '-m', 'rtjax.data.instruction_table', folder, '--out', tmp_path / 'table.npz']
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  assert f'3 sentences of 4 episodes, vectors of {USE} [512]\nTable: {tmp_path}' in done.stdout
  table = instructions.open_encoder(tmp_path / 'table.npz')
  assert table.id == USE and sorted(table.texts) == ['x', 'y', 'z']
  np.testing.assert_array_equal(table(['x', 'z']), [hashed_ngrams('x'), hashed_ngrams('z')])
