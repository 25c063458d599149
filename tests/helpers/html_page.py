"""Parser of HTML pages, for tests of reports."""
import html.parser

VOID = {'meta', 'img', 'br', 'wbr'}


class ParsedPage(html.parser.HTMLParser):
  """Check that elements nest; keep texts, ids, tags and sources."""

  def __init__(self, text: str):
    super().__init__()
    self.open, self.ids, self.sources, self.text, self.tags = [], [], [], '', []
    self.feed(text)
    assert not self.open

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.tags.append(tag)
    self.ids += [attrs['id']] if 'id' in attrs else []
    self.sources += [v for k, v in attrs.items() if k in ('src', 'href')]
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data
