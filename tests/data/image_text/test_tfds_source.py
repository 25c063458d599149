"""Sources that TFDS wrote: known layouts, and refusals."""
import pytest

pytest.importorskip('tensorflow', reason="needs the extra 'data'")

from helpers import image_text_folders as fabricated

from rtjax.data.image_text import tfds_source
from rtjax.data.image_text.pairs import Pair
from rtjax.data.image_text.sources import open_source
from rtjax.data.image_text.tfds_source import Layout

COUNT = Pair('vqa', 'Answer: how many?', '3')


def pairs_of(source):
  return [pair for image in source.read_all() for pair in image.pairs]


def write_pointing(folder, answer, **metadata):
  example = {'image': fabricated.pixels(1), 'pairs': [{'kind': 'point', 'question': 'a can', 'answer': answer}]}
  return fabricated.write_tfds(folder, 'tabletop_qa', fabricated.TABLETOP, [example], metadata={
      'kinds': ['point'], **metadata})


def test_the_metadata_has_the_grid(tmp_path):
  known = open_source(write_pointing(tmp_path / 'known', '3 5', grid=8), 'train')
  unknown = open_source(write_pointing(tmp_path / 'unknown', '3 5'), 'train')
  assert pairs_of(known) == [Pair('point', 'Point at a can.', '3 5', 8)] and known.tasks == ('point',)
  assert pairs_of(unknown.with_task('point')) == [Pair('point', 'Point at a can.', '3 5', 0)]


def test_a_point_outside_its_grid_is_named(tmp_path):
  source = open_source(write_pointing(tmp_path, '3 8', grid=8), 'train')
  with pytest.raises(ValueError, match=r"image 0 of 'train': the answer to pointing is '3 8'.*8 by 8 cells"):
    pairs_of(source)


def test_coco_captions(tmp_path):
  examples = [fabricated.coco(i, f'caption {i}', ' again\n') for i in range(5)]
  source = open_source(fabricated.write_tfds(tmp_path, 'coco_captions', fabricated.COCO, examples, shards=2), 'train')
  assert source.tasks == ('caption',)
  assert pairs_of(source) == [
      Pair('caption', 'Describe the picture.', text) for i in range(5) for text in (f'caption {i}', 'again')]
  images = list(source.read_all())
  assert [len(image) for image in images] == [2] * 5 and images[3].encoded[:2] == b'\xff\xd8'


def test_other_layouts(tmp_path):
  image = fabricated.pixels(1)
  for name, features, example, expected in (
      ('clevr', fabricated.CLEVR, {'image': image, 'file_name': 'a', 'question_answer': [
          {'question': 'how many?', 'answer': '3'}, {'question': 'why?', 'answer': 'so'}]},
       [COUNT, Pair('vqa', 'Answer: why?', 'so')]),
      ('laion400m', fabricated.LAION, {'image': image, 'caption': 'x', 'url': 'u', 'similarity': 1.0},
       [Pair('caption', 'Describe the picture.', 'x')]),
      ('my_questions', fabricated.QUESTIONS, {'image': image, 'question': 'how many?', 'answer': '3'}, [COUNT]),
      ('tabletop_qa', fabricated.TABLETOP, {'image': image, 'pairs': [
          {'kind': 'caption', 'question': '', 'answer': 'a red cube'},
          {'kind': 'match', 'question': 'a can', 'answer': 'no'}]},
       [Pair('caption', 'Describe the picture.', 'a red cube'),
        Pair('match', 'Does this describe the picture? a can', 'no')])):
    source = open_source(fabricated.write_tfds(tmp_path, name, features, [example]), 'train')
    assert pairs_of(source) == expected
    for task in source.tasks:
      assert pairs_of(source.with_task(task)) == [pair for pair in expected if pair.task == task]


def test_an_unknown_layout(tmp_path, monkeypatch):
  features = {'image': fabricated.QUESTIONS['image'], 'alt': fabricated.QUESTIONS['question']}
  name = fabricated.write_tfds(tmp_path, 'other', features, [{'image': fabricated.pixels(1), 'alt': 'x'}])
  with pytest.raises(ValueError, match=r"this dataset has \['alt', 'image'\]"):
    open_source(name, 'train')
  monkeypatch.setattr(tfds_source, 'LAYOUTS', [Layout('caption', 'alt'), *tfds_source.LAYOUTS])
  assert pairs_of(open_source(name, 'train')) == [Pair('caption', 'Describe the picture.', 'x')]


def test_an_empty_answer_in_tfds(tmp_path):
  examples = [{'image': fabricated.pixels(i), 'question': 'why?', 'answer': 'so' if i else ''} for i in (1, 0)]
  source = open_source(fabricated.write_tfds(tmp_path, 'mine', fabricated.QUESTIONS, examples), 'train')
  with pytest.raises(ValueError, match=r"image 1 of 'train': the answer to 'why\?' is empty"):
    list(source.read_all())
