"""Pairs of each task, and refusals of wrong fields and answers."""
import pytest

from rtjax.data.image_text.pairs import Pair, make_pair, parse_fields


@pytest.mark.parametrize(('fields', 'pair'), [
    ({'caption': 'a red cube '}, Pair('caption', 'Describe the picture.', 'a red cube')),
    ({'question': 'how many?', 'answer': '3'}, Pair('vqa', 'Answer: how many?', '3')),
    ({'caption': 'a can', 'answer': 'no'}, Pair('match', 'Does this describe the picture? a can', 'no')),
    ({'prompt': 'Count!', 'answer': '2'}, Pair('vqa', 'Count!', '2')),
    ({'point': 'the red cube', 'answer': '3 5'}, Pair('point', 'Point at the red cube.', '3 5')),
    ({'point': 'the red cube', 'answer': '3 5', 'grid': 6}, Pair('point', 'Point at the red cube.', '3 5', 6))])
def test_fields_select_the_task(fields, pair):
  assert parse_fields(fields) == pair
  assert pair.point == ((3, 5) if pair.task == 'point' else None)


@pytest.mark.parametrize(('fields', 'words'), [
    ({'caption': ' '}, "'caption' is ' ', expected a text"),
    ({'caption': 3}, "'caption' is 3, expected a text"),
    ({'captoin': 'a'}, "unknown field 'captoin'.*Did you mean 'caption'"),
    ({'question': 'why?'}, r"it has \['question'\], expected one of"),
    ({'caption': 'a can', 'answer': 'perhaps'}, "answer to a match is 'perhaps', expected 'yes' or 'no'"),
    ({'caption': 'a can', 'grid': 8}, r"it has \['caption', 'grid'\]"),
    ({'point': 'a can', 'answer': 'left'}, "the answer to pointing is 'left', expected column and row"),
    ({'point': 'a can', 'answer': '3 5', 'grid': 5}, "'3 5', expected column and row from 0 to 4.*5 by 5 cells"),
    ({'point': 'a can', 'answer': '8 0', 'grid': 8}, "'8 0', expected column and row from 0 to 7"),
    ({'point': 'a can', 'answer': '3 5', 'grid': 0}, "'grid' is 0, expected the number of cells"),
    ({'point': 'a can', 'answer': '3 5', 'grid': '8'}, "'grid' is '8', expected the number of cells"),
    ({'point': 'a can', 'answer': '3 5', 'grid': True}, "'grid' is True, expected the number of cells")])
def test_wrong_fields(fields, words):
  with pytest.raises(ValueError, match=words):
    parse_fields(fields)


def test_an_empty_answer_is_refused():
  with pytest.raises(ValueError, match=r"the answer to 'why\?' is empty"):
    make_pair('vqa', 'why?', ' ')
