"""Texts to ids and back; the same ids in the input pipeline; which tokens are actions."""
import io
import pickle
import random
import sys

import numpy as np
import pytest

sentencepiece = pytest.importorskip('sentencepiece', reason="needs the extra 'language'")

from rtjax.language.tokenizer import EOS, PAD, Tokenizer  # noqa: E402


def trained(**changed):
  """A small vocabulary of another kind: T5's way of normalising, no bytes, no integers."""
  model = io.BytesIO()
  words = ['pick up the red cube', 'Grün ﬁn ２', 'close drawers 1 2 3 45', 'a thing to drink from', 'zebra zoo'] * 20
  settings = {'vocab_size': 80, 'model_type': 'unigram', 'pad_id': 0, 'eos_id': 1, 'unk_id': 2, 'bos_id': -1}
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(words), model_writer=model, minloglevel=2, hard_vocab_limit=False, **settings | changed)
  return model.getvalue()


@pytest.fixture(scope='module')
def own():
  return Tokenizer()


@pytest.fixture(scope='module')
def t5():
  return Tokenizer(trained(), 't5')


def texts(count, seed=0):
  """Words, numbers, Unicode of all planes, spaces of all kinds, nothing, and very long ones."""
  draw = random.Random(seed)
  known = ['pick', 'up', 'the', 'red', 'cube', 'drawer?', 'Answer:', 'yes', 'naïve', '汉字', '🤖🦾', 'é', 'e\u0301',
           '\u2581', '</s>', '<pad>', '<0x41>', '\u200b', '\u3000', '\xa0', '\t', '\n', 'ﬁ', '２', '٣', '-7',
           '1.5', '007', '256']
  out = ['', ' ', '   ', 'x' * 3000, ' '.join(map(str, range(300)))]
  while len(out) < count:
    words = [draw.choice([draw.choice(known), str(draw.randrange(1000)),
                          ''.join(chr(draw.choice([draw.randrange(32, 127), draw.randrange(128, 0xd800),
                                                   draw.randrange(0xe000, 0x110000)])) for _ in range(3))])
             for _ in range(draw.randrange(12))]
    out.append(draw.choice([' ', '  ', '']).join(words))
  return out


def test_ids(own):
  ids = own.encode(['1 128 91', ''], 6)
  assert ids.dtype == np.int32 and ids.shape == (2, 6)
  assert ids[0].tolist() == [*own.action_ids(256)[[1, 128, 91]], EOS, PAD, PAD]
  assert ids[1].tolist() == [EOS, *[PAD] * 5]
  assert own.tokens('1 128 91') == ids[0, :4].tolist()


def test_what_goes_in_comes_out(own):
  """Byte fallback: any text, but for runs of spaces, and the mark that stands for a space inside."""
  def words(text):
    return [part for part in text.replace('\u2581', ' ').split(' ') if part]

  for text in texts(2000):
    (back,) = own.decode(own.encode([text], 20000))
    assert words(back) == words(text)
    if '\u2581' not in text:
      assert back == ' '.join(words(text))


@pytest.mark.parametrize('vocabulary', ['own', 't5'])
def test_the_input_pipeline_gives_the_same_ids(vocabulary, request):
  pytest.importorskip('tensorflow_text', reason='needs tensorflow-text')
  from rtjax.data.image_text.tokens import encoder
  tokenizer = request.getfixturevalue(vocabulary)
  encode = encoder(tokenizer)
  assert encode != tokenizer.encode
  some = texts(4000, seed=1)
  np.testing.assert_array_equal(encode(some, 20000), tokenizer.encode(some, 20000))


def test_without_tensorflow_text_the_tokenizer_does_it(own, monkeypatch):
  pytest.importorskip('tensorflow', reason="needs the extra 'data'")
  from rtjax.data.image_text.tokens import encoder
  monkeypatch.setitem(sys.modules, 'tensorflow_text', None)
  assert encoder(own) == own.encode


def test_nothing_is_cut(own):
  text = 'pick up the red cube'
  count = len(own.tokens(text))
  assert own.encode([text], count)[0, -1] == EOS
  with pytest.raises(ValueError, match=rf"'{text}' has {count} tokens.* at most {count - 1} "):
    own.encode(['a', text], count - 1)


def test_decode_stops_at_the_end_and_leaves_padding_out(own):
  (pick, one) = (own.tokens(text)[0] for text in ('pick', '1'))
  assert own.decode([[PAD, pick, PAD, one, EOS, pick]]) == ['pick 1']
  assert own.decode(np.zeros((2, 0), np.int32)) == ['', '']
  assert '\u2047' in own.decode([[pick, own.size + 100]])[0]
  for bad in ([1, 2], [[-1]], [[0.5]]):
    with pytest.raises(ValueError, match='expected integers of 0 or more'):
      own.decode(bad)


def test_action_ids_are_integers_where_there_are_all(own):
  ids = own.action_ids(256)
  assert len(set(ids.tolist())) == 256
  assert own.decode(ids[:, None]) == [str(i) for i in range(256)]
  assert own.decode([ids[[1, 128, 91, 241, 5, 101, 127]]]) == ['1 128 91 241 5 101 127']


def test_action_ids_are_else_the_least_used(own, t5):
  for tokenizer, bins in ((own, 300), (t5, 20)):
    ids = tokenizer.action_ids(bins).tolist()
    pieces = tokenizer._pieces
    assert len(set(ids)) == bins and not set(ids) & {0, 1, 2}
    spared = [i for i in range(3, tokenizer.size) if i not in ids and not pieces.is_byte(i)]
    assert max(pieces.get_score(i) for i in ids) <= min(pieces.get_score(i) for i in spared)
    np.testing.assert_array_equal(ids, Tokenizer(tokenizer.model).action_ids(bins))
  with pytest.raises(ValueError, match=r'999 bins.*fewer bins or a larger vocabulary'):
    t5.action_ids(999)
  with pytest.raises(ValueError, match='bins is 0'):
    own.action_ids(0)


def test_a_checkpoint_can_carry_it(own, t5, tmp_path):
  assert Tokenizer(own.model).id == own.id != t5.id
  assert pickle.loads(pickle.dumps(t5)).id == t5.id and t5.id.startswith('t5/')
  (tmp_path / 'flan').mkdir()
  (tmp_path / 'flan/spiece.model').write_bytes(t5.model)
  for path in (tmp_path / 'flan', tmp_path / 'flan/spiece.model'):
    assert Tokenizer.load(path).id == t5.id.replace('t5', 'flan')


def test_the_file_is_small(own):
  assert len(own.model) < 60_000 and own.size % 128 == 0
  assert b'/' + b'work' not in own.model  # no path of the machine that made it


def test_bad_input(own, tmp_path):
  (tmp_path / 'text').write_bytes(b'no model')
  (tmp_path / 'empty').write_bytes(b'')
  for name in ('text', 'empty'):
    with pytest.raises(ValueError, match=r'spiece.model of T5'):
      Tokenizer.load(tmp_path / name)
  with pytest.raises(FileNotFoundError, match='absent'):
    Tokenizer.load(tmp_path / 'absent')
  with pytest.raises(ValueError, match='numbers padding -1 and the end of a text 2'):
    Tokenizer(trained(pad_id=-1, eos_id=2, unk_id=0, bos_id=1))
  for bad in ('one text', ['a', 1], [b'bytes']):
    with pytest.raises(ValueError, match='expected a list of strings'):
      own.encode(bad, 5)
