"""Check of a source before training."""
import pytest

pytest.importorskip('tensorflow', reason="needs the extra 'data'")

from helpers import image_text_folders as fabricated

from rtjax.data.image_text.check import check
from rtjax.language.tokenizer import Tokenizer


def test_counts_and_lengths(tmp_path, capsys):
  long = 'word ' * 30
  name = fabricated.write_jsonl(tmp_path, [
      {'caption': 'x'}, {'caption': long}, {'question': 'why?', 'answer': 'so'}])
  check(name)
  printed = capsys.readouterr().out
  count = len(Tokenizer().tokens(long.strip()))
  prompt = len(Tokenizer().tokens('Describe the picture.'))
  assert f'caption: 2 pairs; the longest prompt has {prompt} tokens, the longest target {count}\n' in printed
  assert 'vqa: 1 pairs' in printed and "3 images of 'train' can be used" in printed


def test_broken_images_are_counted(tmp_path):
  name = fabricated.write_jsonl(tmp_path, [{'caption': str(i)} for i in range(15)])
  for i in range(2, 14):
    (tmp_path / f'images/{i}.png').write_bytes(b'broken')
  with pytest.raises(ValueError, match=r'12 of 15 images cannot be decoded(.|\n)*line 3 (.|\n)*and 2 more'):
    check(name)
