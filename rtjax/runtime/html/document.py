"""The frame of a report page: document, tiles, definition lists, embedded images."""
import base64
import html
from collections.abc import Mapping, Sequence

from rtjax.runtime.html_style import CSS

Tile = tuple[str, str, str]
"""CSS class ('policy', 'baseline' or ''), large text, HTML below it."""


def document(title: str, body: str) -> str:
  """Build a self-contained HTML file."""
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
{body}
</body>
</html>
"""


def header(title: str, subtitle: str) -> str:
  return f"""
<header>
<h1>{html.escape(title)}</h1>
<p class="subtitle">{html.escape(subtitle)}</p>
</header>"""


def tiles(entries: Sequence[Tile]) -> str:
  """Build the row of headline figures."""
  return '<div class="tiles">' + ''.join(
      f'<div class="tile {kind}"><b>{value}</b>{caption}</div>' for kind, value, caption in entries) + '</div>'


def definition_list(entries: Mapping[str, str]) -> str:
  return '<dl>' + ''.join(f'<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>'
                          for name, value in entries.items()) + '</dl>'


def method(text: str) -> str:
  """Build the section on how the figures were measured."""
  return f"""
<h2>Method</h2>
<p class="method">{text}</p>"""


def image(content: bytes, mime_type: str, description: str) -> str:
  """Embed an image file as a data URI."""
  data = base64.b64encode(content).decode()
  return f'<img alt="{html.escape(description)}" src="data:{mime_type};base64,{data}">'
