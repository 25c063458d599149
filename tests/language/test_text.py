"""Normal form of instructions."""
import unicodedata

import pytest

from rtjax.language import text


@pytest.mark.parametrize('plain', [
    'pick up the red cube', 'Move 7up can near RXBAR!', 'ガラスのコップを持ち上げて', '빨간 컵을 들어 올려',
    'подними красный кубик', 'می‌خواهم', 'เอาแก้วไปวาง'])
def test_forms_of_a_sentence_become_one(plain):
  """Thai and Persian keep their marks and joiners; case stays."""
  normal = text.normalized(plain)
  assert normal == text.normalized(normal) == unicodedata.normalize('NFKC', plain)
  for form in ('NFC', 'NFD', 'NFKC', 'NFKD'):
    assert text.normalized(unicodedata.normalize(form, plain)) == normal
  assert text.normalized(f'\ufeff {plain}\u200b\n') == normal
  if plain.isascii():
    assert normal == plain


@pytest.mark.parametrize('blank', ['', '  ', '...', '🍎', '\x00', '\u200b', '—', '👩‍🍳'])
def test_without_a_word(blank):
  assert text.tidy(blank) == ''
  with pytest.raises(ValueError, match=r'carries no word .*Name the task in words'):
    text.normalized(blank)


@pytest.mark.parametrize('marked', ['gr\ufffdn', b'gr\xfcn'.decode('utf-8', 'surrogateescape')])
def test_marks_of_undecodable_bytes_are_named(marked):
  with pytest.raises(ValueError, match=r'stand for bytes which could not be decoded.*latin-1'):
    text.tidy(marked)


def test_decode():
  assert text.decode('\ufeffgrün'.encode()) == text.decode('grün'.encode()) == 'grün'
  with pytest.raises(ValueError, match=r"b'gr\\xfcn' is no UTF-8: invalid start byte at byte 2"):
    text.decode(b'gr\xfcn')
