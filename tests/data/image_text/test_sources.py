"""Pictures with texts: what is read from JSONL, tar shards and TFDS datasets, and what is refused."""
import json

import numpy as np
import pytest

pytest.importorskip('tensorflow', reason="needs the extra 'data'")

from helpers import image_text_folders as fabricated

from rtjax.data.image_text import sources
from rtjax.data.image_text.sources import Layout, Pair, open_source

DESCRIBE = 'Describe the picture.'


def read(source):
  return list(source.read(source.chunks(3)))


def pairs(source):
  return [pair for picture in read(source) for pair in picture.pairs]


LINES = [
    {'caption': 'a red cube '}, {'question': 'how many?', 'answer': '3'}, {'caption': 'a can', 'answer': 'no'},
    {'prompt': 'Count!', 'answer': '2'}]
MEANT = [
    Pair('caption', DESCRIBE, 'a red cube'), Pair('vqa', 'Answer: how many?', '3'),
    Pair('match', 'Does this describe the picture? a can', 'no'), Pair('vqa', 'Count!', '2')]


def test_pointing_names_column_and_row(tmp_path):
  line = {'point': 'the red cube', 'answer': '3 5'}
  source = open_source(fabricated.write_jsonl(tmp_path / 'good', [line]), 'train')
  assert pairs(source) == [Pair('point', 'Point at the red cube.', '3 5')] and source.kinds == ('point',)
  with pytest.raises(ValueError, match="the answer to pointing is 'left', expected column and row"):
    open_source(fabricated.write_jsonl(tmp_path / 'bad', [line | {'answer': 'left'}]), 'train')


def test_jsonl(tmp_path):
  name = fabricated.write_jsonl(tmp_path, [*LINES, '', {'caption': 'ünï'}])
  source = open_source(name, 'train')
  assert pairs(source) == [*MEANT, Pair('caption', DESCRIBE, 'ünï')]
  assert source.kinds == ('caption', 'vqa', 'match') and source.num_episodes == 5
  pictures = read(source)
  assert [p.image for p in pictures] == [fabricated.encoded(i) for i in (0, 1, 2, 3, 5)]
  assert pictures[4].where == f'{name}, line 6 (images/5.png)'
  assert pairs(source.of('vqa')) == [MEANT[1], MEANT[3]] and source.of('vqa').num_episodes == 2


def test_identity_is_of_the_contents(tmp_path):
  one, two, three = (open_source(fabricated.write_jsonl(tmp_path / name, lines), 'train') for name, lines in (
      ('a', LINES), ('b', LINES), ('c', LINES[::-1])))
  assert one.identity == two.identity != three.identity
  assert one.identity != one.of('vqa').identity


def test_bad_lines_are_counted_and_the_first_shown(tmp_path):
  lines = [LINES[0], '{"image": ', '[1]', {'caption': ' '}, {'captoin': 'a'}, {'question': 'why?'}, {'caption': 3},
           json.dumps({'image': 'absent.jpg', 'caption': 'x'}), json.dumps({'caption': 'x'}),
           {'caption': 'a can', 'answer': 'perhaps'}]
  with pytest.raises(ValueError, match=r'train.jsonl: 9 of 10 lines cannot be used') as error:
    open_source(fabricated.write_jsonl(tmp_path, lines), 'train')
  for words in ('line 2: Expecting value', 'line 3: expected an object', "line 4: 'caption' is ' '",
                "line 5: unknown field 'captoin'", "Did you mean 'caption'?", "line 6: it has ['question']",
                'and 4 more'):
    assert words in str(error.value)
  for line, words in (
      (7, "'caption' is 3, expected a text"), (8, r"no picture 'absent.jpg'"), (9, "'image' is None"),
      (10, "answer to a match is 'perhaps'")):
    with pytest.raises(ValueError, match=f'line 1: .*{words}'):
      open_source(fabricated.write_jsonl(tmp_path / str(line), [lines[line - 1]]), 'train')


def test_splits_are_files(tmp_path):
  fabricated.write_jsonl(tmp_path, LINES[:1])
  fabricated.write_jsonl(tmp_path, LINES[1:2], 'val', first=1)
  assert pairs(open_source(str(tmp_path), 'val')) == MEANT[1:2]
  with pytest.raises(FileNotFoundError, match=r"no split 'test'.*'train.jsonl', 'val.jsonl'"):
    open_source(str(tmp_path), 'test')
  with pytest.raises(FileNotFoundError, match='no such folder'):
    open_source(str(tmp_path / 'absent'), 'train')


def tar_members():
  return {
      'a/1.png': fabricated.encoded(1), 'a/1.txt': b'a cube',
      'a/2.JPG': fabricated.encoded(2, kind='JPEG'), 'a/2.json': b'{"question": "how many?", "answer": "3"}',
      'b.png': fabricated.encoded(3), 'b.txt': b'a can', 'b.json': b'{"url": "anything", "width": 10}'}


def test_tar_shards(tmp_path):
  for shard in range(2):
    fabricated.write_tar(tmp_path / f'train-{shard}.tar', tar_members())
  fabricated.write_tar(tmp_path / 'val-0.tar', {'x.png': fabricated.encoded(9), 'x.txt': b'x'})
  source = open_source(str(tmp_path), 'train')
  assert pairs(source) == [Pair('caption', DESCRIBE, 'a cube'), MEANT[1], Pair('caption', DESCRIBE, 'a can')] * 2
  assert [p.image for p in read(source)] == [content for name, content in tar_members().items()
                                             if name[-3:].lower() in ('png', 'jpg')] * 2
  assert read(source)[5].where.endswith('train-1.tar (b)')


def test_bad_tar_shards(tmp_path):
  picture = fabricated.encoded(0)
  fabricated.write_tar(tmp_path / 'parts/train.tar', {
      'a.png': picture, 'b.txt': b'text', 'c.png': picture, 'c.cls': b'4', 'c.txt': b'x', 'd.png': picture,
      'd.json': b'{"answer": "x"}', 'e.png': picture, 'e.txt': b'fine'})
  with pytest.raises(ValueError, match=r'4 of 5 samples cannot be used') as error:
    open_source(str(tmp_path / 'parts'), 'train')
  assert "train.tar, a: it has ['png']" in str(error.value) and "c: it has ['cls', 'png', 'txt']" in str(error.value)
  (tmp_path / 'noise').mkdir()
  (tmp_path / 'noise/train.tar').write_bytes(b'x' * 2000)
  whole = tmp_path / 'whole/train.tar'
  fabricated.write_tar(whole, {'a.png': picture, 'a.txt': b'x' * 5000})
  (tmp_path / 'cut').mkdir()
  (tmp_path / 'cut/train.tar').write_bytes(whole.read_bytes()[:3000])
  for name in ('noise', 'cut'):
    with pytest.raises(ValueError, match=r'train.tar: cannot be read'):
      open_source(str(tmp_path / name), 'train')


def test_coco_captions(tmp_path):
  examples = [fabricated.coco(i, f'caption {i}', ' again\n') for i in range(5)]
  source = open_source(fabricated.write_tfds(tmp_path, 'coco_captions', fabricated.COCO, examples, shards=2), 'train')
  assert source.kinds == ('caption',)
  assert pairs(source) == [Pair('caption', DESCRIBE, text) for i in range(5) for text in (f'caption {i}', 'again')]
  assert [len(p) for p in read(source)] == [2] * 5 and read(source)[3].image[:2] == b'\xff\xd8'


def test_other_layouts(tmp_path):
  picture = fabricated.pixels(1)
  for name, features, example, expected in (
      ('clevr', fabricated.CLEVR, {'image': picture, 'file_name': 'a', 'question_answer': [
          {'question': 'how many?', 'answer': '3'}, {'question': 'why?', 'answer': 'so'}]},
       [MEANT[1], Pair('vqa', 'Answer: why?', 'so')]),
      ('laion400m', fabricated.LAION, {'image': picture, 'caption': 'x', 'url': 'u', 'similarity': 1.0},
       [Pair('caption', DESCRIBE, 'x')]),
      ('my_questions', fabricated.QUESTIONS, {'image': picture, 'question': 'how many?', 'answer': '3'}, [MEANT[1]]),
      ('tabletop_qa', fabricated.TABLETOP, {'image': picture, 'pairs': [
          {'kind': 'caption', 'question': '', 'answer': 'a red cube'},
          {'kind': 'match', 'question': 'a can', 'answer': 'no'}]}, [MEANT[0], MEANT[2]])):
    source = open_source(fabricated.write_tfds(tmp_path, name, features, [example]), 'train')
    assert pairs(source) == expected
    for kind in source.kinds:
      assert pairs(source.of(kind)) == [pair for pair in expected if pair.kind == kind]


def test_an_unknown_layout(tmp_path, monkeypatch):
  features = {'image': fabricated.QUESTIONS['image'], 'alt': fabricated.QUESTIONS['question']}
  name = fabricated.write_tfds(tmp_path, 'other', features, [{'image': fabricated.pixels(1), 'alt': 'x'}])
  with pytest.raises(ValueError, match=r"this dataset has \['alt', 'image'\]"):
    open_source(name, 'train')
  monkeypatch.setattr(sources, 'LAYOUTS', [Layout('caption', 'alt'), *sources.LAYOUTS])
  assert pairs(open_source(name, 'train')) == [Pair('caption', DESCRIBE, 'x')]


def test_an_empty_answer_in_tfds(tmp_path):
  examples = [{'image': fabricated.pixels(i), 'question': 'why?', 'answer': 'so' if i else ''} for i in (1, 0)]
  source = open_source(fabricated.write_tfds(tmp_path, 'mine', fabricated.QUESTIONS, examples), 'train')
  with pytest.raises(ValueError, match=r"picture 1 of 'train': the answer to 'why\?' is empty"):
    read(source)


def test_chunks_cover_all(tmp_path):
  source = open_source(fabricated.write_jsonl(tmp_path, [{'caption': str(i)} for i in range(11)]), 'train')
  for size in (1, 4, 11, 50):
    chunks = source.chunks(size)
    assert np.sum([c.take for c in chunks]) == 11 and max(c.take for c in chunks) <= size
    assert [p.target for chunk in chunks for picture in source.read([chunk]) for p in picture.pairs] == [
        str(i) for i in range(11)]
