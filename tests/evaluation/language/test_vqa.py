"""Comparison of answers, and accuracy without the image."""
import pytest

from rtjax.evaluation.language import vqa


@pytest.mark.parametrize('answer, same', [
    ('The red cube.', 'red cube'), ('a  Mug', 'mug'), ('two', '2'), ('None', '0'), ('1,000', '1000'), ("don't", 'dont'),
    ('1.5', '1.5'), ('yes!', 'yes'), ('left-hand', 'left hand'), ('theatre', 'theatre'), ('an', ''), ('', '')])
def test_normalize(answer, same):
  assert vqa.normalize(answer) == same == vqa.normalize(same)


def test_different_answers_stay_different():
  texts = ['red cube', 'red can', '1.5', '15', 'yes', 'no', '2', '3', 'on the table', 'in the bowl']
  assert len({vqa.normalize(text) for text in texts}) == len(texts)


def test_accuracy():
  figures = vqa.accuracy(['Two', 'a cube', 'red', 'no'], ['2', 'cube', 'blue', 'no'], ['vqa', 'vqa', 'vqa', 'match'])
  assert (figures['vqa']['correct'], figures['vqa']['count']) == (2, 3) and figures['vqa']['accuracy'] == 2 / 3
  assert figures['match']['accuracy'] == 1 and figures['all']['accuracy'] == 3 / 4 and list(figures)[-1] == 'all'
  low, high = figures['vqa']['interval']
  assert 0 < low < 2 / 3 < high < 1
  for bad in (([], [], []), (['a'], ['a', 'b'], ['vqa', 'vqa']), (['a'], ['a'], [])):
    with pytest.raises(ValueError, match='same number of each'):
      vqa.accuracy(*bad)


def test_blind_accuracy():
  train = [('vqa', 'open?', 'yes')] * 3 + [('vqa', 'how many?', '1')] * 2 + [('match', 'a cube', 'no')]
  test = [('vqa', 'open?', 'yes'), ('vqa', 'how many?', '1'), ('vqa', 'new?', 'yes'), ('match', 'a can', 'yes'),
          ('other', 'x', '?')]
  figures = vqa.blind_accuracy(train, test)
  assert figures['task']['vqa']['correct'] == 2 and figures['question']['vqa']['correct'] == 3
  assert figures['task']['match']['correct'] == figures['question']['match']['correct'] == 0
