"""Hostile and broken clients against a running server, and the robots that they must not disturb."""
import asyncio
import concurrent.futures
import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time

import msgpack
import numpy as np
import pytest
from helpers.fakes import SIZE, CountingPolicies, serving, until
from helpers.paths import ROOT
from rtjax_client import ConnectionLost, RemotePolicy, codec
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from rtjax.serving import connections, protocol, server
from rtjax.serving.troubles import Troubles

IMAGE = np.zeros((*SIZE, 3), np.uint8)
KEY = 'dGhlIHNhbXBsZSBub25jZQ=='


def opened(port: int):
  return connect(f'ws://127.0.0.1:{port}', compression=None, max_size=None)


def raw(port: int, *lines: str, path: str = '/') -> tuple[int, str]:
  """Send a request with these header lines; return status and the rest of the response."""
  with socket.create_connection(('127.0.0.1', port), timeout=10) as connection:
    connection.sendall('\r\n'.join([f'GET {path} HTTP/1.1', *lines, '', '']).encode())
    received = b''
    with contextlib.suppress(ConnectionResetError):
      while b'\r\n\r\n' not in received or b'101 ' not in received[:15]:
        part = connection.recv(65536)
        if not part:
          break
        received += part
  return int(received.split()[1]), received.decode(errors='replace')


def upgrade(*lines: str) -> list[str]:
  return ['Upgrade: websocket', 'Connection: Upgrade', 'Sec-WebSocket-Version: 13', f'Sec-WebSocket-Key: {KEY}', *lines]


def nested(count: int) -> bytes:
  """Return a msgpack message of about `count` empty maps, a byte each, in lists of the allowed length."""
  parts = [b'\x80'] * count
  while len(parts) > 1:
    parts = [b'\xdc' + len(group).to_bytes(2, 'big') + b''.join(group)
             for group in (parts[i:i + 1024] for i in range(0, len(parts), 1024))]
  return b'\x81\xa5image' + parts[0]


def test_a_message_of_millions_of_parts_does_not_stop_other_robots():
  """14 MiB of empty maps took 3.4 s of the event loop and 1 GB."""
  longest, stop = [0.0], threading.Event()

  def robot(policy: RemotePolicy) -> None:
    while not stop.is_set():
      started = time.monotonic()
      policy.step(IMAGE)
      longest[0] = max(longest[0], time.monotonic() - started)

  message = nested(14 * 2 ** 20)
  assert msgpack.unpackb(nested(3)) == {'image': [{}, {}, {}]} and len(message) < protocol.MAX_MESSAGE
  with (serving(CountingPolicies(2)) as (_, port), RemotePolicy(port=port, timeout=20) as policy,
        opened(port) as hostile):
    policy.reset('go')
    hostile.recv()
    thread = threading.Thread(target=robot, args=(policy,))
    thread.start()
    hostile.send(message)
    answer = hostile.recv(timeout=20)
    stop.set()
    thread.join()
  assert 'more than 256 maps and lists' in answer and longest[0] < 1


def test_a_message_in_millions_of_fragments_is_cut_off():
  with serving(CountingPolicies(1)) as (server, port), opened(port) as hostile:
    hostile.recv()
    with contextlib.suppress(ConnectionClosed, OSError):
      hostile.send(bytes(0) for _ in range(100_000))
    with pytest.raises(ConnectionClosed, match='more than 1024 fragments'):
      hostile.recv(timeout=10)
    until(lambda: len(server.sessions) == 0)


def test_a_message_in_few_fragments_is_answered():
  message = codec.pack({'image': IMAGE, 'instruction': 'go'})
  with serving(CountingPolicies(1)) as (_, port), opened(port) as connection:
    connection.recv()
    connection.send([message[:7], b'', message[7:]])
    assert codec.unpack(connection.recv(timeout=10))['begins']


@pytest.mark.parametrize('behaviour', ['silent', 'malformed', 'unfinished message'])
def test_a_client_without_a_step_loses_its_slot(behaviour):
  """Pings are answered; a robot that steps keeps its slot, and the lost one may connect again."""
  with serving(CountingPolicies(2), idle_timeout=0.4) as (server, port), RemotePolicy(port=port) as policy:
    policy.reset('go')
    with opened(port) as idle:
      idle.recv()
      if behaviour == 'unfinished message':
        idle.protocol.send_binary(b'\x81', fin=False)
        idle.socket.sendall(b''.join(idle.protocol.data_to_send()))
      started = time.monotonic()
      with pytest.raises(ConnectionClosed, match=r'no step for 0.4 s \(--idle-timeout\): reconnect'):
        while time.monotonic() < started + 5:
          policy.step(IMAGE)
          idle.ping()
          if behaviour == 'malformed':
            idle.send(b'\xc1')
          with contextlib.suppress(TimeoutError):
            idle.recv(timeout=0.02)
      until(lambda: len(server.sessions) == 1)
    assert not policy.step(IMAGE).begins
    time.sleep(0.6)
    assert policy.step(IMAGE).begins  # rtjax-client connects again by itself
    assert server.metrics.value('rtjax_connections_total', outcome='idle') == 2


@pytest.mark.parametrize('name', ['Authorization', 'Host', 'Upgrade', 'Sec-WebSocket-Key', 'Sec-WebSocket-Version',
                                  'Origin'])
@pytest.mark.parametrize('websocket', [False, True])
def test_headers_given_twice_are_an_error_of_the_client(served, name, websocket):
  line = f'{name}: Api-Key key' if name == 'Authorization' else f'{name}: localhost'
  status, text = raw(served, *(upgrade() if websocket else []), 'Host: localhost', line, line)
  if websocket or name in ('Authorization', 'Host', 'Upgrade'):
    assert status == 400 and name in text
  else:
    assert status == 200  # headers of websockets mean nothing to a page


@pytest.fixture(scope='module')
def served():
  with serving(CountingPolicies(2), allowed_hosts=('policy.lab', 'Robot-1.')) as (_, port):
    yield port


@pytest.mark.parametrize('host', ['localhost', 'LOCALHOST:8000', '127.0.0.1:8000', '10.0.0.7', '[::1]:8000', '[::1]',
                                  'policy.lab:1', 'policy.lab.', 'robot-1', f'{socket.gethostname()}:8000'])
def test_own_hosts(served, host):
  assert raw(served, f'Host: {host}', path='/state')[0] == 200
  assert raw(served, f'Host: {host}', *upgrade())[0] == 101


@pytest.mark.parametrize('host', [
    'evil.example', 'evil.example:8000', 'localhost.evil.example', '127.0.0.1.evil.example', 'policy.lab.evil.example',
    '127.0.0.1@evil.example', '', 'evil.example, localhost', '[::1', '1.2.3.4.5', '[evil.example]'])
@pytest.mark.parametrize('path', ['/', '/state', '/frame/0', '/metrics', '/healthz'])
def test_other_hosts(served, host, path):
  """A web page that points its own name at this machine gets nothing."""
  for lines in ([f'Host: {host}'], upgrade(f'Host: {host}')):
    status, text = raw(served, *lines, path=path)
    assert status == 421 and '--allowed-hosts' in text and 'does not answer' in text


def test_no_host(served):
  assert raw(served)[0] == raw(served, *upgrade())[0] == 421


def test_more_sockets_than_descriptors():
  """Idle sockets beyond the limit get 503, the oldest first: no traceback, few lines, and robots go on."""
  code = ('import logging, resource, sys\n'
          'resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n'
          'logging.basicConfig(level=logging.INFO)\n'
          'from helpers.fakes import CountingPolicies, serving\n'
          'with serving(CountingPolicies(2)) as (_, port):\n'
          '  print(port, flush=True)\n'
          '  sys.stdin.read()\n')
  environment = os.environ | {'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT / 'tests'), *sys.path]),
                              'JAX_PLATFORMS': 'cpu'}
  with contextlib.ExitStack() as stack, subprocess.Popen(
      [sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
      env=environment) as process:
    port = int(process.stdout.readline())
    policy = stack.enter_context(RemotePolicy(port=port))
    policy.reset('go')
    idle = [stack.enter_context(socket.create_connection(('127.0.0.1', port))) for _ in range(400)]
    assert [policy.step(IMAGE).begins for _ in range(3)] == [True, False, False]
    for connection in idle:
      connection.settimeout(5)
    assert any(connection.recv(100).startswith(b'HTTP/1.1 503 ') for connection in idle)
    for connection in idle:
      connection.close()
    until(lambda: _answers(port))
    assert not policy.step(IMAGE).begins
    _, errors = process.communicate('')
  assert 'Traceback' not in errors and 'connections refused' in errors and errors.count('\n') < 10


def test_silent_connections_keep_no_robot_out(monkeypatch):
  """A new one takes the place of the oldest, which gets the reason."""
  monkeypatch.setattr(server, 'most_connections', lambda _: 3)
  monkeypatch.setattr(server, '_OPEN_S', 60)
  with serving(CountingPolicies(2)) as (_, port), contextlib.ExitStack() as stack:
    silent = [stack.enter_context(socket.create_connection(('127.0.0.1', port))) for _ in range(3)]
    silent[1].sendall(b'GET / HTTP/1.1\r\n')  # and no end of the request
    policy = stack.enter_context(RemotePolicy(port=port))
    second = stack.enter_context(RemotePolicy(port=port))
    for connection in silent[:2]:
      connection.settimeout(5)
      assert connection.recv(100).startswith(b'HTTP/1.1 503 ')
    for robot in (policy, second):
      robot.reset('go')
      assert robot.step(IMAGE).begins


def test_silent_connections_of_one_burst_keep_no_robot_out(monkeypatch):
  """A busy server accepts several at once, of which none is ready to be closed yet."""
  monkeypatch.setattr(server, 'most_connections', lambda _: 3)
  with contextlib.ExitStack() as stack, concurrent.futures.ThreadPoolExecutor() as pool:
    stop, first_messages, silent = asyncio.Event(), [], []

    def robot(port: int) -> bytes:
      with opened(port) as connection:
        return connection.recv(timeout=10)

    def ready(port: int) -> None:
      silent.extend(stack.enter_context(socket.create_connection(('127.0.0.1', port))) for _ in range(3))
      first_messages.append(asyncio.get_running_loop().run_in_executor(pool, robot, port))
      first_messages[0].add_done_callback(lambda _: stop.set())
      time.sleep(0.2)  # the event loop accepts all of them in one go

    asyncio.run(server.Server(CountingPolicies(2), SIZE).run('127.0.0.1', 0, stop, ready))
    assert codec.unpack(first_messages[0].result())['max_clients'] == 2
    silent[0].settimeout(5)
    assert silent[0].recv(100).startswith(b'HTTP/1.1 503 ')


def test_a_client_that_does_not_read_loses_its_slot(monkeypatch):
  """Its replies fill the buffers, and the pings wait behind them."""
  monkeypatch.setattr(server, '_READ_S', 0.3)
  monkeypatch.setattr(protocol, 'reply', lambda *_: {'actions': np.zeros(2 ** 23, np.uint8)})
  with (serving(CountingPolicies(1)) as (running, port),
        connect(f'ws://127.0.0.1:{port}', compression=None, max_size=None, max_queue=1,
                close_timeout=0.1) as deaf):
    for _ in range(8):
      deaf.send(codec.pack({'image': IMAGE, 'instruction': 'go'}))
    until(lambda: running.metrics.value('rtjax_connections_total', outcome='unread') == 1, 20)
    until(lambda: len(running.sessions) == 0)
    with RemotePolicy(port=port) as policy:
      assert policy.metadata['max_clients'] == 1


@pytest.mark.parametrize('steps', [False, True])
def test_a_client_without_a_step_gives_way_to_a_new_one(monkeypatch, steps):
  monkeypatch.setattr(server, '_UNUSED_S', 0.2)
  with serving(CountingPolicies(1)) as (running, port), opened(port) as first:
    first.recv()
    if steps:
      first.send(codec.pack({'image': IMAGE, 'instruction': 'go'}))
      first.recv(timeout=10)
    time.sleep(0.3)
    if steps:
      with pytest.raises(ConnectionClosed, match='all 1 slots are taken'), opened(port) as second:
        second.recv(timeout=10)
      first.send(codec.pack({'image': IMAGE}))
      assert not codec.unpack(first.recv(timeout=10))['begins']
      return
    with RemotePolicy(port=port) as policy:
      policy.reset('go')
      assert [policy.step(IMAGE).begins for _ in range(2)] == [True, False]
      with pytest.raises(ConnectionClosed, match=r'no step in 0\.2 s, and another client came'):
        first.recv(timeout=10)
      assert not policy.step(IMAGE).begins  # the old session's end does not free the slot
    until(lambda: len(running.sessions) == 0)
    assert running.metrics.value('rtjax_connections_total', outcome='unused') == 1


def test_a_client_without_room(monkeypatch):
  monkeypatch.setattr(server, 'most_connections', lambda _: 1)
  with (serving(CountingPolicies(2)) as (_, port), RemotePolicy(port=port),
        pytest.raises(ConnectionLost, match='no room for another connection')):
    RemotePolicy(port=port, connect_timeout=0.1)


def _answers(port: int) -> bool:
  try:
    return raw(port, 'Host: localhost', path='/healthz')[0] == 200
  except (OSError, IndexError):
    return False


def test_too_few_descriptors_for_the_robots(monkeypatch):
  resource = pytest.importorskip('resource')
  monkeypatch.setattr(resource, 'getrlimit', lambda _: (256, 256))
  assert 0 < connections.most_connections(8) < 256 - len(os.listdir('/dev/fd')) - connections.BACKLOG
  with pytest.raises(ValueError, match=r'500 clients need more file descriptors than the limit of 256 .*ulimit -n'):
    connections.most_connections(500)


def test_one_line_per_kind_and_minute(caplog):
  log = logging.getLogger('troubles')
  troubles = Troubles(log, period_s=0.3)
  numbers = {troubles.add('kind', f'message {i}') for i in range(1000)}
  troubles.add('other', 'another')
  time.sleep(0.3)
  troubles.add('kind', 'again')
  assert len(numbers) == 1
  assert [record.message for record in caplog.records] == [
      'message 0', 'another', 'again (999 more like this since the last line)']


def test_a_flood_of_errors_is_one_line(caplog):
  """Also failures of the model: each client gets the number of the line that has the traceback."""
  policies = CountingPolicies(1)
  caplog.set_level(logging.INFO, 'rtjax.serve')
  with serving(policies) as (_, port), opened(port) as connection:
    connection.recv()
    for _ in range(50):
      connection.send(b'\xc1')
      connection.recv(timeout=10)
    policies.broken = True
    for _ in range(20):
      connection.send(codec.pack({'image': IMAGE, 'instruction': 'go'}))
      number = connection.recv(timeout=10).split('error ')[1].split()[0]
    for _ in range(20):
      with pytest.raises(ConnectionClosed), opened(port) as refused:
        refused.recv(timeout=10)
  lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
  assert len(lines) == 3 and f'(error {number})' in lines[1] and 'all 1 slots are taken' in lines[2]


def test_ping_frames_do_not_count_as_fragments():
  message = codec.pack({'image': IMAGE, 'instruction': 'go'})
  with serving(CountingPolicies(1)) as (_, port), opened(port) as connection:
    connection.recv()
    connection.protocol.send_binary(message[:5], fin=False)
    for _ in range(2000):
      connection.protocol.send_ping(b'')
    connection.protocol.send_continuation(message[5:], fin=True)
    connection.socket.sendall(b''.join(connection.protocol.data_to_send()))
    assert codec.unpack(connection.recv(timeout=10))['begins']
