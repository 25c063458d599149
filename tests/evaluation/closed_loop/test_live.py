"""The live page: frames of running episodes, films of finished ones, access."""
import base64
import http.client
import io
import json
import threading
import time

import numpy as np
import pytest

pytest.importorskip('gymnasium', reason="needs the extra 'sim'")

from helpers import toy_env
from helpers.html_page import ParsedPage
from PIL import Image

from rtjax.evaluation.closed_loop import agents, live, rollout
from rtjax.evaluation.closed_loop.protocol import EpisodeLog

RECORD = {'split': 'seen', 'skill': 'pick', 'seed': 3, 'instruction': 'pick <b>', 'success': True, 'failure': None,
          'steps': 2}
IMAGE = np.full((8, 12, 3), 200, np.uint8)


@pytest.fixture
def page():
  page = live.Page('expert in toy', 5)
  yield page
  page.close('')


def get(page, path='/state', host='', method='GET'):
  """Return status, headers and body of a request."""
  address = page.address.removeprefix('http://')
  connection = http.client.HTTPConnection(address, timeout=5)
  try:
    connection.request(method, path, headers={'Host': host or address})
    answer = connection.getresponse()
    return answer.status, dict(answer.headers), answer.read()
  finally:
    connection.close()


def state(page):
  return json.loads(get(page)[2])


def mean(data: str) -> float:
  """Return the mean of an image in a data URI."""
  kind, _, content = data.partition(',')
  assert kind in ('data:image/jpeg;base64', 'data:image/webp;base64')
  return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert('RGB'), int).mean()


class Recorder:
  """Viewer that keeps its calls."""

  def __init__(self):
    self.steps, self.records, self.paces = {}, [], 0

  def step(self, slot, task, step, image):
    self.steps.setdefault(slot, []).append((task, step, round(image.mean())))

  def pace(self):
    self.paces += 1

  def finish(self, slot, record, images):
    assert [step for _, step, _ in self.steps[slot]] == list(range(1, record['steps'] + 1))
    assert [mean for *_, mean in self.steps.pop(slot)] == [round(image.mean()) for image in images]
    self.records.append(record)


def test_a_viewer_sees_every_step_and_result(vector, episodes, tmp_path):
  log, env, viewer = EpisodeLog(tmp_path, {}), toy_env.environment(), Recorder()
  selected = [episodes[i] for i in (0, 3, 5, 4)]
  runner = rollout.Runner(agents.ExpertAgent(), vector, log, env.action_spec, 5, tmp_path / 'films', viewer=viewer)
  records = list(runner.run(selected))
  assert viewer.records == records and len(records) == 4
  assert not viewer.steps and viewer.paces >= 6


def test_state(page):
  page.begin('expert', 1, 5, 0)
  page.step(1, 'pick <b>', 1, IMAGE)
  page.step(0, 'push it', 4, IMAGE // 2)
  shown = state(page)
  assert {name: shown[name] for name in ('title', 'agent', 'done', 'total', 'successes', 'end', 'ended')} == {
      'title': 'expert in toy', 'agent': 'expert', 'done': 1, 'total': 5, 'successes': 0, 'end': '', 'ended': []}
  assert [(e['task'], e['step'], round(mean(e['image']))) for e in shown['running']] == [
      ('push it', 4, 100), ('pick <b>', 1, 200)]
  page.finish(1, RECORD, [IMAGE, IMAGE])
  shown = state(page)
  assert (shown['done'], shown['successes'], len(shown['running'])) == (2, 1, 1)
  assert {**shown['ended'][0], 'image': None} == RECORD | {'image': None}
  assert mean(shown['ended'][0]['image']) == pytest.approx(200, abs=3)
  for _ in range(20):
    page.finish(0, RECORD | {'success': False}, [])  # an episode that failed to start has no image
  shown = state(page)
  assert (shown['done'], shown['successes'], len(shown['ended'])) == (22, 1, 8)


def test_the_page_loads_nothing_from_elsewhere(page):
  status, headers, body = get(page, '/')
  assert status == 200 and headers['Content-Type'] == 'text/html; charset=utf-8'
  assert "default-src 'none'" in headers['Content-Security-Policy'] and headers['Cache-Control'] == 'no-store'
  text = body.decode().replace('<script>\n', '<script>').split('<script>')
  parsed = ParsedPage(text[0] + text[1].partition('</script>')[2])
  assert not parsed.sources and {'title', 'count', 'running', 'ended'} <= set(parsed.ids)
  assert 'http' not in text[1] and 'innerHTML' not in text[1]  # instructions are set as text
  assert '/* STYLE */' not in text[0] and '--background' in text[0]


@pytest.mark.parametrize(('host', 'status'), [
    ('localhost:8080', 200), ('127.0.0.1', 200), ('evil.example', 421), ('evil.example:80', 421), ('10.0.0.1', 421)])
def test_only_this_machine_is_answered(page, host, status):
  """The Host of a page that rebinds its name is refused; a tunnel may have another port."""
  assert page.address.startswith('http://127.0.0.1:')
  assert get(page, host=host)[0] == status


def test_other_requests(page):
  assert get(page, '/../secret')[0] == 404
  assert get(page, method='POST')[0] == 501


def test_pace(page):
  start = time.monotonic()
  for _ in range(4):
    page.pace()
  assert 0.3 <= time.monotonic() - start < 1.5  # three tenths of a second at 5 Hz, twice the speed


def test_an_open_page_gets_the_last_state():
  page, seen = live.Page('expert in toy', 5), []
  page.step(0, 'pick it', 1, IMAGE)
  seen.append(state(page))
  closing = threading.Thread(target=page.close, args=('The evaluation has ended.',))
  closing.start()
  while not seen[-1]['end'] and closing.is_alive():
    seen.append(state(page))
  closing.join()
  assert (seen[-1]['end'], seen[-1]['running']) == ('The evaluation has ended.', [])
  with pytest.raises(ConnectionRefusedError):
    get(page)


def test_opened_prints_the_address(capsys):
  with live.opened('expert in toy', 5) as page:
    assert capsys.readouterr().out == f'Live: {page.address}\n'
    assert get(page)[0] == 200
  with pytest.raises(ConnectionRefusedError):
    get(page)
