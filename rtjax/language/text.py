"""The form of an instruction that all encoders read.

One sentence has several Unicode forms: macOS stores accents decomposed, Japanese keyboards type full-width letters,
files begin with a byte order mark. A vector must not depend on them.
"""
import unicodedata
from collections.abc import Sequence

# They are spelling in Persian and in Indic scripts; all other invisible characters go.
_JOINERS = '\u200c\u200d'


def normalized(text: str) -> str:
  """Return the normal form of an instruction.

  Invisible characters are removed, the rest is composed (NFKC), and words are separated by single spaces. Case stays as
  it is, since encoders treat it differently. Plain ASCII in single spaces does not change.

  Raises:
    ValueError: the text carries no word, or marks of bytes that could not be decoded.
  """
  tidied = tidy(text)
  if not tidied:
    raise ValueError(f'the instruction {text!r} carries no word (a letter or digit). Name the task in words.')
  return tidied


def tidy(text: str) -> str:
  """Return the normal form of a text; empty without a word.

  Raises:
    ValueError: the text has marks of bytes that could not be decoded.
  """
  if any(character == '\ufffd' or '\ud800' <= character <= '\udfff' for character in text):
    raise ValueError(f'the text {text!r} has characters that stand for bytes which could not be decoded. Read '
                     'its source in the right encoding, such as latin-1, and store it as UTF-8.')
  visible = ''.join(character for character in text if not _is_invisible(character))
  words = ' '.join(unicodedata.normalize('NFKC', visible).split())
  return words if any(map(str.isalnum, words)) else ''


def listed(texts: Sequence[str]) -> Sequence[str]:
  """Return `texts`, which must be a list of strings."""
  if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
    raise ValueError(f'texts is {texts!r}, expected a list of strings.')
  return texts


def decode(raw: bytes) -> str:
  """Decode UTF-8 with or without a byte order mark.

  Raises:
    ValueError: the bytes are no UTF-8.
  """
  try:
    return raw.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    raise ValueError(f'the text {bytes(raw)!r} is no UTF-8: {error.reason} at byte {error.start}. Read its source in '
                     'the right encoding, such as latin-1, and store it as UTF-8.') from error


def _is_invisible(character: str) -> bool:
  return (unicodedata.category(character) in ('Cf', 'Cc') and not character.isspace() and character not in _JOINERS)
