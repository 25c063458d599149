"""Tables as HTML and Markdown."""
from helpers.html_page import ParsedPage

from rtjax.runtime.html.tables import Table


def test_html_and_markdown():
  table = Table('A & B', ('x', 'y'), [['a|b', '1'], ['<c>', '2']], 'Note.', [(0.5, 0.2, 0.9), (0, 0, 0.1)],
                [[0.5], [None]])
  assert table.markdown().splitlines() == [
      '## A & B', '', '| x | y |', '| --- | --: |', '| a\\|b | 1 |', '| <c> | 2 |', '', 'Note.']
  parsed = ParsedPage(table.html())
  assert [t.strip() for t in parsed.text.split('\n') if t.strip()] == ['A & B', 'xy', 'a|b1<c>2', 'Note.']
  assert 'left:20.00%;width:70.00%' in table.html() and table.html().count('color-mix') == 1
