"""Vocabularies of tokenizer.json, against SentencePiece's of the same content; prompts and action tokens of Gemma."""
import base64
import json
import pickle
import random
import subprocess
import sys
import zlib

import numpy as np
import pytest

sentencepiece = pytest.importorskip('sentencepiece', reason="needs the extra 'language'")
tokenizers = pytest.importorskip('tokenizers', reason="needs the extra 'language'")

from helpers import tiny_tokenizers  # noqa: E402

from rtjax.language.tokenizer import EOS, PAD, Tokenizer  # noqa: E402
from rtjax.language.tokenizer_json import TokenizerJson  # noqa: E402


@pytest.fixture(scope='module')
def both():
  return Tokenizer(tiny_tokenizers.gemma_model(256), 'gemma'), Tokenizer(tiny_tokenizers.gemma_json(256), 'gemma')


def texts(count):
  draw = random.Random(0)
  known = ['pick', 'up', 'the red cube', '128', ' ', '  ', '汉字', '🤖', 'é', '<bos', 'drawer?', '\n', '<loc0007>']
  return ['', ' ', *(''.join(draw.choices([*known, chr(draw.randrange(33, 0xd800))], k=draw.randrange(9)))
                     for _ in range(count))]


def test_ids_and_texts_are_those_of_sentencepiece(both):
  model, ours = both
  some = texts(1000)
  ids = model.encode(some, 300)
  np.testing.assert_array_equal(ours.encode(some, 300), ids)
  assert ours.decode(ids) == model.decode(ids) == some
  assert ours.tokens('pick up') == model.tokens('pick up') == [*ours.tokens('pick up')[:-1], EOS]
  assert ours.size == model.size and ours.integers == model.integers


def test_nothing_is_cut_and_nothing_is_added(both):
  """The file asks for at most 5 tokens, and for <bos>."""
  _, ours = both
  ids = ours.tokens('pick up the red cube and the green ball 1234567')
  assert len(ids) > 6 and 2 not in ids and ids.count(EOS) == 1


def test_special_tokens_in_a_text_stay_text(both):
  for tokenizer in both:
    ids = tokenizer.tokens('a<eos>b<bos><pad>')
    assert ids.count(EOS) == 1 and PAD not in ids and 2 not in ids
    assert tokenizer.decode([ids]) == ['a<eos>b<bos><pad>']


def test_decode_marks_unknown_tokens(both):
  for tokenizer in both:
    pick = tokenizer.tokens('pick')[:-1]
    assert tokenizer.decode([[*pick, tokenizer.size + 9, 2, *pick, EOS, *pick]]) == ['pick \u2047 pick']


@pytest.mark.parametrize('vocabulary', ['auto', 'rarest', 'loc'])
def test_action_ids_are_those_of_sentencepiece(both, vocabulary):
  model, ours = both
  np.testing.assert_array_equal(ours.action_ids(20, vocabulary), model.action_ids(20, vocabulary))


def test_the_rarest_are_the_last_of_byte_pairs(both):
  for tokenizer in both:
    ids = tokenizer.action_ids(20, 'rarest').tolist()
    assert ids == list(range(tokenizer.size - 1, tokenizer.size - 21, -1))


def test_locations(both):
  for tokenizer in both:
    assert tokenizer.action_ids(256, 'loc').tolist() == list(range(109, 109 + 256))
    assert tokenizer.decode(tokenizer.action_ids(3, 'loc')[None]) == ['<loc0000><loc0001><loc0002>']
    with pytest.raises(ValueError, match=r"257 bins need the tokens '<loc0000>' to 256 .* lacks 1 .* of 256"):
      tokenizer.action_ids(257, 'loc')
    with pytest.raises(ValueError, match=r'16 bins need the integers 0 to 15 .*rarest'):
      tokenizer.action_ids(16, 'integers')
    with pytest.raises(ValueError, match="'words', expected 'auto'"):
      tokenizer.action_ids(3, 'words')


def test_a_unigram_model_has_scores():
  tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(
      [('<pad>', 0.0), ('</s>', 0.0), ('<unk>', 0.0), ('\u2581a', -1.0), ('\u2581b', -9.0), ('\u2581c', -3.0)], 2))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
  tokenizer.decoder = tokenizers.decoders.Metaspace()
  tokenizer.add_special_tokens(['<pad>', '</s>', '<unk>'])
  ours = Tokenizer(tokenizer.to_str().encode(), 't5')
  assert ours.encode(['a c'], 4).tolist() == [[3, 5, EOS, PAD]] and ours.decode([[3, 5, EOS]]) == ['a c']
  assert ours.action_ids(2).tolist() == [4, 5]


def test_a_checkpoint_can_carry_it(both, tmp_path):
  model, ours = both
  stored = json.loads(json.dumps(ours.to_json()))
  assert len(stored['model']) < len(ours.model) / 2
  for copy in (Tokenizer.from_json(stored), pickle.loads(pickle.dumps(ours))):
    assert copy.id == ours.id != model.id and copy.model == ours.model
  (tmp_path / 'tokenizer.json').write_bytes(ours.model)
  assert Tokenizer.load(tmp_path).is_json and Tokenizer.load(tmp_path).id.startswith(tmp_path.name)
  (tmp_path / 'tokenizer.model').write_bytes(model.model)
  assert not Tokenizer.load(tmp_path).is_json
  assert Tokenizer.load(tmp_path / 'tokenizer.json').encode(['a'], 3).tolist() == ours.encode(['a'], 3).tolist()


@pytest.mark.parametrize('change, message', [
    ({'model': {'type': 'WordPiece', 'vocab': {}}}, "of the type 'WordPiece', expected one of"),
    ({'model': None}, 'its entry "model" is None'), ({'model': {'type': 'BPE', 'vocab': {}}}, 'cannot be read'),
    ({'model': {'type': 'BPE', 'vocab': {'a': 2 ** 31}, 'merges': []}}, 'its ids reach 2147483648'),
    ({'model': {'type': 'Unigram', 'vocab': [['a', 0.0]], 'unk_id': 7}}, 'cannot be read'),
    ({'added_tokens': 'a'}, 'cannot be read')])
def test_damaged_files(both, tmp_path, change, message):
  content = json.dumps(json.loads(both[1].model) | change)
  (tmp_path / 'tokenizer.json').write_text(content)
  with pytest.raises(ValueError, match=message):
    Tokenizer.load(tmp_path)


def test_a_file_that_fails_at_a_text(both):
  """The library panics at an expression that backtracks too much; its bound is 10 million steps."""
  tokenizer = Tokenizer(json.dumps(json.loads(both[1].model) | {
      'normalizer': {'type': 'Replace', 'pattern': {'Regex': '(a+)+$'}, 'content': 'x'}}).encode())
  with pytest.raises(ValueError, match=r'tokenizer\.json fails: .*retry-limit'):
    tokenizer.encode(['a' * 60 + 'b'], 200)


def test_a_truncated_file(both, tmp_path):
  (tmp_path / 'tokenizer.json').write_bytes(both[1].model[:-100])
  with pytest.raises(ValueError, match=r'tokenizer\.json is no JSON'):
    Tokenizer.load(tmp_path)


@pytest.mark.parametrize('packed, message', [
    (b'no zlib', 'stored with the weights is damaged'), (zlib.compress(bytes(65 * 2 ** 20)), 'the compressed tensor')])
def test_a_damaged_checkpoint(both, packed, message):
  stored = both[1].to_json() | {'model': base64.b64encode(packed).decode()}
  with pytest.raises(ValueError, match=message):
    Tokenizer.from_json(stored)


def test_other_ends_are_refused(both):
  data = json.loads(both[1].model)
  swap = {'<pad>': 1, '<eos>': 0}
  data['model']['vocab'] |= swap
  data['added_tokens'] = [token | {'id': swap.get(token['content'], token['id'])} for token in data['added_tokens']]
  with pytest.raises(ValueError, match='numbers padding 1 and the end of a text 0'):
    Tokenizer(json.dumps(data).encode())


def test_without_the_package(tmp_path):
  code = ("import sys; sys.modules['tokenizers'] = None\n"
          'from rtjax.language.tokenizer import Tokenizer\n'
          'assert Tokenizer().size\n'
          "Tokenizer(b'{}')")
  run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  assert "pip install 'rtjax[language]'" in run.stderr.splitlines()[-1]


def test_length_is_the_number_of_ids(both):
  assert len(TokenizerJson(both[1].model)) == 420 + 256
