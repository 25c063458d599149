"""Sources of JSONL and tar shards: their pairs, and refusals."""
import json

import numpy as np
import pytest

pytest.importorskip('tensorflow', reason="needs the extra 'data'")

import pathlib
import tarfile

import pytest
from helpers import hostile_files, image_text_folders
from helpers import image_text_folders as fabricated
from helpers.image_text_folders import LINES

from rtjax.data.image_text.pairs import Pair, parse_fields
from rtjax.data.image_text.sources import open_source
from rtjax.runtime.limits import BoundError

PAIRS = [parse_fields(line) for line in LINES]


def pairs_of(source):
  return [pair for image in source.read_all() for pair in image.pairs]


@pytest.mark.parametrize('grid', [0, 8])
def test_a_point_has_the_grid_of_its_line(tmp_path, grid):
  line = {'point': 'the red cube', 'answer': '3 5'} | ({'grid': grid} if grid else {})
  source = open_source(fabricated.write_jsonl(tmp_path, [line]), 'train')
  assert pairs_of(source) == [Pair('point', 'Point at the red cube.', '3 5', grid)] and source.tasks == ('point',)


def test_a_point_outside_its_grid_is_named(tmp_path):
  line = {'point': 'the red cube', 'answer': '3 5', 'grid': 4}
  with pytest.raises(ValueError, match=r"train.jsonl: 1 of 1 lines.*\n  line 1: the answer to pointing is '3 5'"):
    open_source(fabricated.write_jsonl(tmp_path, [line]), 'train')


def test_jsonl(tmp_path):
  name = fabricated.write_jsonl(tmp_path, [*LINES, '', {'caption': 'ünï'}])
  source = open_source(name, 'train')
  assert pairs_of(source) == [*PAIRS, Pair('caption', 'Describe the picture.', 'ünï')]
  assert source.tasks == ('caption', 'vqa', 'match') and source.num_records == 5
  images = list(source.read_all())
  assert [i.encoded for i in images] == [fabricated.encoded(i) for i in (0, 1, 2, 3, 5)]
  assert images[4].source == f'{name}, line 6 (images/5.png)'
  assert pairs_of(source.with_task('vqa')) == [PAIRS[1], PAIRS[3]] and source.with_task('vqa').num_records == 2


def test_identity_is_of_the_contents(tmp_path):
  one, two, three = (open_source(fabricated.write_jsonl(tmp_path / name, lines), 'train') for name, lines in (
      ('a', LINES), ('b', LINES), ('c', LINES[::-1])))
  assert one.identity == two.identity != three.identity
  assert one.identity != one.with_task('vqa').identity


def test_bad_lines_are_counted_and_the_first_shown(tmp_path):
  lines = [LINES[0], '{"image": ', '[1]', {'caption': ' '}, {'captoin': 'a'}, {'question': 'why?'}, {'caption': 3},
           json.dumps({'image': 'absent.jpg', 'caption': 'x'}), json.dumps({'caption': 'x'}),
           {'caption': 'a can', 'answer': 'perhaps'}]
  with pytest.raises(ValueError, match=r'train.jsonl: 9 of 10 lines cannot be used') as error:
    open_source(fabricated.write_jsonl(tmp_path, lines), 'train')
  for words in ('line 2: the text is no JSON: Expecting value', 'line 3: the text is [1], expected',
                "line 4: 'caption' is ' '", "line 5: unknown field 'captoin'", "Did you mean 'caption'?",
                "line 6: it has ['question']", 'and 4 more'):
    assert words in str(error.value)
  for line, words in (
      (7, "'caption' is 3, expected a text"), (8, r"no image 'absent.jpg'"), (9, "'image' is None"),
      (10, "answer to a match is 'perhaps'")):
    with pytest.raises(ValueError, match=f'line 1: .*{words}'):
      open_source(fabricated.write_jsonl(tmp_path / str(line), [lines[line - 1]]), 'train')


def tar_members():
  return {
      'a/1.png': fabricated.encoded(1), 'a/1.txt': b'a cube',
      'a/2.JPG': fabricated.encoded(2, encoding='JPEG'), 'a/2.json': b'{"question": "how many?", "answer": "3"}',
      'b.png': fabricated.encoded(3), 'b.txt': b'a can', 'b.json': b'{"url": "anything", "width": 10}'}


def test_tar_shards(tmp_path):
  for shard in range(2):
    fabricated.write_tar(tmp_path / f'train-{shard}.tar', tar_members())
  fabricated.write_tar(tmp_path / 'val-0.tar', {'x.png': fabricated.encoded(9), 'x.txt': b'x'})
  source = open_source(str(tmp_path), 'train')
  captions = [Pair('caption', 'Describe the picture.', text) for text in ('a cube', 'a can')]
  assert pairs_of(source) == [captions[0], PAIRS[1], captions[1]] * 2
  images = list(source.read_all())
  assert [i.encoded for i in images] == [
      content for name, content in tar_members().items() if name[-3:].lower() in ('png', 'jpg')] * 2
  assert images[5].source.endswith('train-1.tar (b)')


def test_bad_tar_shards(tmp_path):
  image = fabricated.encoded(0)
  fabricated.write_tar(tmp_path / 'parts/train.tar', {
      'a.png': image, 'b.txt': b'text', 'c.png': image, 'c.cls': b'4', 'c.txt': b'x', 'd.png': image,
      'd.json': b'{"answer": "x"}', 'e.png': image, 'e.txt': b'fine'})
  with pytest.raises(ValueError, match=r'4 of 5 samples cannot be used') as error:
    open_source(str(tmp_path / 'parts'), 'train')
  assert "train.tar, a: it has ['png']" in str(error.value) and "c: it has ['cls', 'png', 'txt']" in str(error.value)
  (tmp_path / 'noise').mkdir()
  (tmp_path / 'noise/train.tar').write_bytes(b'x' * 2000)
  complete = tmp_path / 'complete/train.tar'
  fabricated.write_tar(complete, {'a.png': image, 'a.txt': b'x' * 5000})
  (tmp_path / 'cut').mkdir()
  (tmp_path / 'cut/train.tar').write_bytes(complete.read_bytes()[:3000])
  for name in ('noise', 'cut'):
    with pytest.raises(ValueError, match=r'train.tar: cannot be read'):
      open_source(str(tmp_path / name), 'train')


def test_chunks_cover_all(tmp_path):
  source = open_source(fabricated.write_jsonl(tmp_path, [{'caption': str(i)} for i in range(11)]), 'train')
  for size in (1, 4, 11, 50):
    chunks = source.chunks(size)
    assert np.sum([c.take for c in chunks]) == 11 and max(c.take for c in chunks) <= size
    assert [p.target for chunk in chunks for image in source.read([chunk]) for p in image.pairs] == [
        str(i) for i in range(11)]


@pytest.mark.parametrize('image', ['/etc/passwd', '../secret.png', 'images/../../secret.png', 'link.png'])
def test_jsonl_stays_in_its_folder(tmp_path, image):
  (tmp_path / 'secret.png').write_bytes(image_text_folders.encoded(0))
  folder = tmp_path / 'data'
  image_text_folders.write_jsonl(folder, [json.dumps({'image': image, 'caption': 'x'})])
  (folder / 'link.png').symlink_to(tmp_path / 'secret.png')
  with pytest.raises(ValueError, match='leads out of the folder'):
    open_source(str(folder), 'train')


def test_a_jsonl_file_that_is_a_link_or_too_large(tmp_path):
  folder = pathlib.Path(image_text_folders.write_jsonl(tmp_path / 'a', [{'caption': 'x'}]))
  (folder / 'linked.jsonl').symlink_to('/etc/hostname')
  with pytest.raises(BoundError, match='leads out of the folder'):
    open_source(str(folder), 'linked')
  hostile_files.sparse(folder / 'train.jsonl', 2 ** 42)
  with pytest.raises(BoundError, match=r'train.jsonl has 4,398'):
    open_source(str(folder), 'train')
  image_text_folders.write_jsonl(tmp_path / 'b', ['{"a":' * 100_000])
  with pytest.raises(ValueError, match='more than 64 levels'):
    open_source(str(tmp_path / 'b'), 'train')


def test_sparse_and_endless_tar_members(tmp_path):
  for kind in (tarfile.REGTYPE, tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
    info = tarfile.TarInfo('a.png')
    info.size, info.type = 10 ** 13, kind
    (tmp_path / 'train-0.tar').write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(ValueError, match='cannot be read'):
      open_source(str(tmp_path), 'train')
