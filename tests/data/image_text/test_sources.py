"""Splits of a folder, and refusals of unknown ones."""
import pytest

pytest.importorskip('tensorflow', reason="needs the extra 'data'")

from helpers import image_text_folders as fabricated
from helpers.image_text_folders import LINES

from rtjax.data.image_text.pairs import parse_fields
from rtjax.data.image_text.sources import open_source


def test_splits_are_files(tmp_path):
  fabricated.write_jsonl(tmp_path, LINES[:1])
  fabricated.write_jsonl(tmp_path, LINES[1:2], 'val', first=1)
  (image,) = open_source(str(tmp_path), 'val').read_all()
  assert image.pairs == (parse_fields(LINES[1]),)
  with pytest.raises(FileNotFoundError, match=r"no split 'test'.*'train.jsonl', 'val.jsonl'"):
    open_source(str(tmp_path), 'test')
  with pytest.raises(FileNotFoundError, match='no such folder'):
    open_source(str(tmp_path / 'absent'), 'train')
