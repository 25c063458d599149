"""Page that shows episodes while they run, served to this machine alone.

    http://127.0.0.1:PORT         the page (live.html), which asks for /state several times a second
    http://127.0.0.1:PORT/state   JSON: 'title', 'agent', 'done', 'total', 'successes', 'end', 'running' and 'ended'
                                  (episodes with their images)

The simulation is slowed down to twice the real speed, so that motions can be followed.
"""
import base64
import collections
import contextlib
import http
import http.server
import json
import pathlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from rtjax.runtime.html import frames
from rtjax.runtime.html_style import CSS

SPEED = 2
"""Most control steps in the time of one."""

_ENDED = 8  # finished episodes on the page
_WAIT_S = 1.0  # for an open page to get the last state
_HOSTS = ('127.0.0.1', 'localhost')
_POLICY = ("default-src 'none'; img-src data:; connect-src 'self'; style-src 'unsafe-inline'; script-src "
           "'unsafe-inline'; frame-ancestors 'none'")
_HTML = (pathlib.Path(__file__).parent / 'live.html').read_text().replace('/* STYLE */', CSS).encode()


class Viewer(Protocol):
  """Observer of running episodes."""

  def begin(self, agent: str, done: int, total: int, successes: int) -> None:
    """Note which agent acts now, and the count of its episodes."""

  def step(self, slot: int, task: str, step: int, image: np.ndarray) -> None:
    """Show the image, uint8 [H, W, 3], that a step's action was chosen for."""

  def pace(self) -> None:
    """Wait until the next control step may be taken."""

  def finish(self, slot: int, record: Mapping[str, Any], images: Sequence[np.ndarray]) -> None:
    """Show the result and the images of a slot's episode."""


class Page:
  """Viewer in a browser.

  Args:
    title: of the page.
    control_hz: control steps per second of the environment.

  Attributes:
    address: of the page.
  """

  def __init__(self, title: str, control_hz: float):
    self._period, self._hz = 1 / (SPEED * control_hz), SPEED * control_hz
    self._next = 0.0
    self._lock = threading.Lock()
    self._state: dict[str, Any] = {'title': title, 'agent': '', 'done': 0, 'total': 0, 'successes': 0, 'end': ''}
    self._running: dict[int, dict[str, Any]] = {}
    self._ended: collections.deque[dict[str, Any]] = collections.deque(maxlen=_ENDED)
    self._asked = threading.Event()
    self._server = _Server(self._json)
    threading.Thread(target=self._server.serve_forever, daemon=True).start()
    self.address = f'http://127.0.0.1:{self._server.server_port}'

  def begin(self, agent: str, done: int, total: int, successes: int) -> None:
    with self._lock:
      self._state |= {'agent': agent, 'done': done, 'total': total, 'successes': successes}

  def step(self, slot: int, task: str, step: int, image: np.ndarray) -> None:
    shown = {'task': task, 'step': step, 'image': _data(frames.jpeg(image), 'jpeg')}
    with self._lock:
      self._running[slot] = shown

  def pace(self) -> None:
    time.sleep(max(0.0, self._next - time.monotonic()))
    self._next = time.monotonic() + self._period

  def finish(self, slot: int, record: Mapping[str, Any], images: Sequence[np.ndarray]) -> None:
    film = _data(frames.video(images, self._hz), 'webp') if images else ''
    shown = {name: record[name] for name in ('split', 'skill', 'seed', 'instruction', 'success', 'failure', 'steps')}
    with self._lock:
      self._running.pop(slot, None)
      self._ended.appendleft(shown | {'image': film})
      self._state['done'] += 1
      self._state['successes'] += record['success']

  def close(self, end: str) -> None:
    """Show the line `end`, and stop.

    An open page gets the time to ask for it.
    """
    watched = self._asked.is_set()
    with self._lock:
      self._state['end'] = end
      self._running.clear()
      self._asked.clear()
    if watched:
      self._asked.wait(_WAIT_S)
    self._server.shutdown()
    self._server.server_close()

  def _json(self) -> bytes:
    with self._lock:
      self._asked.set()
      running = [self._running[slot] for slot in sorted(self._running)]
      return json.dumps(self._state | {'running': running, 'ended': list(self._ended)}).encode()


class _Server(http.server.ThreadingHTTPServer):
  """Server of the page on a free port of this machine."""
  daemon_threads = True

  def __init__(self, state: Callable[[], bytes]):
    super().__init__(('127.0.0.1', 0), _Handler)
    self.state = state


class _Handler(http.server.BaseHTTPRequestHandler):
  """Answer to one request."""
  server: _Server
  timeout = 10

  def do_GET(self) -> None:
    # A web page whose name is pointed at this machine (DNS rebinding) sends its own name as Host.
    if self.headers.get('Host', '').partition(':')[0] not in _HOSTS:
      self._answer(http.HTTPStatus.MISDIRECTED_REQUEST, 'text/plain', b'This page is at 127.0.0.1 or localhost.\n')
    elif self.path == '/':
      self._answer(http.HTTPStatus.OK, 'text/html; charset=utf-8', _HTML)
    elif self.path == '/state':
      self._answer(http.HTTPStatus.OK, 'application/json', self.server.state())
    else:
      self._answer(http.HTTPStatus.NOT_FOUND, 'text/plain', b'There are / and /state.\n')

  def log_message(self, *_: Any) -> None:
    pass

  def _answer(self, status: http.HTTPStatus, kind: str, body: bytes) -> None:
    with contextlib.suppress(OSError):  # the browser has gone
      self.send_response(status)
      for name, value in {'Content-Type': kind, 'Content-Length': str(len(body)), 'Cache-Control': 'no-store',
                          'X-Content-Type-Options': 'nosniff', 'Content-Security-Policy': _POLICY}.items():
        self.send_header(name, value)
      self.end_headers()
      self.wfile.write(body)


@contextlib.contextmanager
def opened(title: str, control_hz: float) -> Iterator[Page]:
  """Open a page, and print its address."""
  page = Page(title, control_hz)
  print(f'Live: {page.address}', flush=True)
  try:
    yield page
  finally:
    page.close('The evaluation has ended.')


def _data(content: bytes, kind: str) -> str:
  return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'
