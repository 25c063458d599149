"""Output folder of reports."""
import pytest

from rtjax.evaluation import provenance


def test_folder_that_cannot_be_written(tmp_path):
  (tmp_path / 'taken').write_text('')
  for folder in (tmp_path / 'taken', tmp_path / 'taken/inside'):
    with pytest.raises(ValueError, match=r'output folder .*taken.* cannot be written.*--output'):
      provenance.make_output_folder(folder)
  provenance.make_output_folder(tmp_path / 'a/b')
  assert list((tmp_path / 'a/b').iterdir()) == []
