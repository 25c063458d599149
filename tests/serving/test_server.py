"""Server with a fake policy: clients, errors, HTTP, shutdown."""
import base64
import contextlib
import gc
import json
import threading
import urllib.error
import urllib.request

import msgpack
import numpy as np
import pytest
from helpers.fakes import SIZE, CountingPolicies, serving, until
from rtjax_client import codec
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from rtjax.actions import ARM_7D
from rtjax.models import RT1MultiviewConfig
from rtjax.serving.sessions import Session

FRAMES, IMAGE, TASK = 0, 1, 2  # indices in the plan of CountingPolicies


def image(value: int = 0) -> np.ndarray:
  return np.full((*SIZE, 3), value, np.uint8)


def client(port: int, **options):
  module = pytest.importorskip('openpi_client.websocket_client_policy', reason='openpi-client is not installed')
  return module.WebsocketClientPolicy('127.0.0.1', port, **options)


@pytest.fixture
def opened():
  """Connect, and close all connections at the end."""
  with contextlib.ExitStack() as stack:
    yield lambda port, **options: stack.enter_context(
        connect(f'ws://127.0.0.1:{port}', compression=None, max_size=None, **options))


def ask(connection, **observation) -> dict | str:
  connection.send(codec.pack(observation))
  reply = connection.recv(timeout=10)
  return reply if isinstance(reply, str) else codec.unpack(reply)


def get(port: int, path: str, authorization: str = '') -> tuple[int, str, str]:
  """Return status, content type and body."""
  request = urllib.request.Request(f'http://127.0.0.1:{port}{path}')
  if authorization:
    request.add_header('Authorization', authorization)
  try:
    reply = urllib.request.urlopen(request, timeout=10)
  except urllib.error.HTTPError as error:
    reply = error
  with reply:
    return reply.status, reply.headers['Content-Type'], reply.read().decode(errors='replace')


def test_openpi_client():
  with serving(CountingPolicies(2)) as (_, port):
    policy = client(port)
    assert policy.get_server_metadata()['image_size'] == list(SIZE)
    assert [n['name'] for n in policy.get_server_metadata()['numbers']][:2] == ['translation[0]', 'translation[1]']
    for step in range(1, 4):
      answer = policy.infer({'observation/image': image(9), 'observation/state': np.zeros(8), 'prompt': 'lift it'})
      assert answer['actions'].dtype == np.float32 and answer['actions'].shape == (1, 7)
      assert answer['actions'][0, :3].tolist() == [step, 9, len('lift it')]
      assert answer['action']['gripper'] == [1.0] and answer['tokens'] == list(range(7))
      later = {'prev_total_ms'} if step > 1 else set()
      assert answer['server_timing'].keys() == {'infer_ms', 'wait_ms', 'batch'} | later
    with pytest.raises(RuntimeError, match="Did you mean 'prompt'"):
      policy.infer({'observation/image': image(), 'promt': 'x'})
    assert policy.infer({'image': image()})['actions'][0, FRAMES] == 4  # the error does not affect the episode


def test_openpi_action_chunk_broker():
  """The broker takes one row of each array of a reply per step."""
  pytest.importorskip('openpi_client')
  broker = pytest.importorskip('openpi_client.action_chunk_broker')
  with serving(CountingPolicies(1)) as (_, port):
    chunks = broker.ActionChunkBroker(client(port), action_horizon=1)
    for step in (1, 2):
      answer = chunks.infer({'image': image(), 'prompt': 'go'})
      assert answer['actions'].shape == (7,) and answer['actions'][FRAMES] == step


def test_episodes(opened):
  """A connection or `reset` begins an episode; another instruction does not."""
  with serving(CountingPolicies(2)) as (_, port):
    one = opened(port)
    one.recv()
    assert "'instruction'" in ask(one, image=image())
    answers = [ask(one, image=image(), instruction='go'), ask(one, image=image()),
               ask(one, image=image(), instruction='stop'), ask(one, image=image(), reset=True),
               ask(one, image=image(), embedding=np.full(512, 0.25, np.float32)),
               ask(one, image=image(), embedding=np.full(512, 0.5, np.float32), reset=True)]
    replies = [(a['begins'], a['actions'][0, FRAMES], a['actions'][0, TASK]) for a in answers]
    assert replies == [(True, 1, 2), (False, 2, 2), (False, 3, 4), (True, 1, 4), (False, 2, 0.25), (True, 1, 0.5)]
    assert 'expected (512,)' in ask(one, image=image(), embedding=np.zeros(3, np.float32))
    assert ask(one, image=image())['actions'][0, :3].tolist() == [2, 0, 0.5]


def test_views_and_proprioception(opened):
  """A policy of several cameras that uses the state gets both; other policies get no state."""
  policies = CountingPolicies(1)
  with serving(policies) as (_, port):
    plain = opened(port)
    plain.recv()
    ask(plain, image=image(), instruction='go', proprioception=np.zeros(3, np.float32))
    assert policies.states == [None]
  policies = CountingPolicies(1)
  policies.config = RT1MultiviewConfig(action_spec=ARM_7D, views=2, proprioception_size=3)
  with serving(policies) as (_, port):
    one, both = opened(port), np.stack([image(5), image(6)])
    one.recv()
    state = np.arange(3, dtype=np.float32)
    assert 'takes 2 view(s)' in ask(one, image=image(), instruction='go', proprioception=state)
    assert 'proprioception is missing' in ask(one, image=both, instruction='go')
    assert 'of shape (2,), expected float32 [3]' in ask(one, image=both, instruction='go', proprioception=state[:2])
    assert ask(one, image=both, instruction='go', proprioception=state)['actions'][0, IMAGE] == 5
    np.testing.assert_array_equal(policies.states[0], state[None])
    assert get(port, '/frame/0')[:2] == (200, 'image/jpeg')


def test_clients_have_their_own_episodes_and_share_steps(opened):
  """Eight clients at once: each has its own count, image and instruction; simultaneous requests share a step."""
  policies = CountingPolicies(8, delay=0.02)
  with serving(policies) as (server, port):
    def robot(number: int) -> None:
      connection = opened(port)
      connection.recv()
      barrier.wait()
      for step in range(20):
        answer = ask(connection, image=image(number), instruction='x' * (number + 1))
        assert answer['actions'][0, :3].tolist() == [step + 1, number, number + 1]
      done.append(number)

    done: list[int] = []
    barrier = threading.Barrier(8)
    threads = [threading.Thread(target=robot, args=(number,)) for number in range(8)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join(30)
    assert sorted(done) == list(range(8))
    assert sum(map(len, policies.batches)) == 160
    assert len(policies.batches) < 80  # more than two share a step on average
    assert len(policies.threads) == 1 and policies.threads != {threading.current_thread().name}
    assert server.metrics.value('rtjax_batch_size_sum') == 160


def test_more_clients_than_slots(opened):
  with serving(CountingPolicies(2)) as (server, port):
    first, second = opened(port), opened(port)
    first.recv(), second.recv()
    third = opened(port)
    with pytest.raises(ConnectionClosed, match='all 2 slots are taken; see --max-clients'):
      third.recv(timeout=5)
    assert ask(second, image=image(), instruction='go')['actions'][0, FRAMES] == 1
    second.close()
    until(lambda: len(server.sessions) == 1)
    fourth = opened(port)
    fourth.recv()
    assert ask(fourth, image=image(), instruction='go')['actions'][0, FRAMES] == 1  # no state of the second client
    assert server.metrics.value('rtjax_connections_total', outcome='full') == 1


def test_a_client_that_disconnects_frees_its_slot(opened):
  """Without a closing handshake, idle or while its step runs."""
  policies = CountingPolicies(2, delay=0.3)
  with serving(policies) as (server, port):
    for send_first in (False, True):
      connection = opened(port)
      connection.recv()
      if send_first:
        connection.send(codec.pack({'image': image(), 'instruction': 'go'}))
        until(lambda: server.sessions.get(0).busy)
      connection.socket.shutdown(2)
      until(lambda: len(server.sessions) == 0)
    assert len(policies.batches) == 1
    again = opened(port)
    again.recv()
    assert ask(again, image=image(), instruction='go')['actions'][0, FRAMES] == 1


def test_errors_of_the_model_are_not_sent_to_clients(opened):
  policies = CountingPolicies(1)
  with serving(policies) as (server, port):
    connection = opened(port)
    connection.recv()
    ask(connection, image=image(), instruction='go')
    policies.broken = True
    reply = ask(connection, image=image())
    assert 'the server failed' in reply and 'secret' not in reply and 'Traceback' not in reply and '.py' not in reply
    assert get(port, '/healthz')[0] == 503
    policies.broken = False
    answer = ask(connection, image=image())
    assert answer['begins'] and answer['actions'][0, :3].tolist() == [1, 0, 2]
    assert get(port, '/healthz')[0] == 200
    assert server.metrics.value('rtjax_requests_total', outcome='failed') == 1


def test_numbers_that_are_not_finite_hold_one_robot(opened):
  """The answer says so, for input and output; the other robot of the same steps goes on."""
  policies = CountingPolicies(2, delay=0.02)
  with serving(policies) as (server, port):
    one, two = opened(port), opened(port)
    one.recv(), two.recv()
    for robot in (one, two):
      ask(robot, image=image(), instruction='go')
    for number in (np.nan, np.inf):
      policies.not_finite = {0: number}
      one.send(codec.pack({'image': image()}))
      two.send(codec.pack({'image': image()}))
      answer = one.recv(timeout=10)
      assert isinstance(answer, str) and answer.startswith('hold: the policy computed NaN or infinite numbers')
      assert not codec.unpack(two.recv(timeout=10))['begins']
    assert server.metrics.value('rtjax_requests_total', outcome='failed') == 2
    policies.not_finite = {0: np.nan, 1: np.nan}
    assert ask(two, image=image()).startswith('hold: ')
    assert get(port, '/healthz')[0] == 503
    policies.not_finite = {}
    answer = ask(one, image=image())
    assert answer['begins'] and answer['actions'][0, FRAMES] == 1 and get(port, '/healthz')[0] == 200
    for value in (np.nan, np.inf, 1e300):
      for key in ('embedding', 'proprioception'):
        assert ask(one, image=image(), **{key: np.array([0.0, value])}).startswith(f'hold: {key} holds NaN, infinite')
    assert ask(one, image=image())['actions'][0, FRAMES] == 2  # a bad input does not affect the episode


def test_limits(opened):
  with serving(CountingPolicies(1)) as (server, port):
    connection = opened(port)
    connection.recv()
    connection.send(bytes(17 * 2 ** 20))
    with pytest.raises(ConnectionClosed, match='1009'):
      connection.recv(timeout=10)
    until(lambda: not len(server.sessions))
    with pytest.raises(InvalidStatus, match='403'):  # a web page's script
      opened(port, origin='http://evil.example')


def test_malformed_and_dropped(opened):
  """A thousand corrupted messages over a hundred dropped connections do not affect other clients."""
  random = np.random.default_rng(0)
  valid = codec.pack({'image': image(), 'instruction': 'go'})
  with serving(CountingPolicies(3)) as (server, port):
    other = opened(port)
    other.recv()
    for number in range(100):
      connection = opened(port)
      assert not isinstance(connection.recv(), str)
      for _ in range(10):
        corrupted = [random.bytes(random.integers(200)), valid[:random.integers(len(valid))],
                     msgpack.packb({'image': random.bytes(9)}), 'text'][random.integers(4)]
        connection.send(corrupted)
        reply = connection.recv(timeout=10)
        assert isinstance(reply, str) and 'Traceback' not in reply and 'File "' not in reply
      connection.socket.shutdown(2)
      assert ask(other, image=image(), instruction='go')['actions'][0, FRAMES] == number + 1
    until(lambda: len(server.sessions) == 1)
    assert server.metrics.value('rtjax_requests_total', outcome='refused') == 1000
    connection = None
    gc.collect()
    assert sum(isinstance(value, Session) for value in gc.get_objects()) == 1


def test_key(opened):
  with serving(CountingPolicies(1), api_key='a kéy') as (server, port):
    for header in ('', 'Api-Key wrong', 'Digest x', 'Basic ?'):
      with pytest.raises(InvalidStatus, match='401'):
        opened(port, additional_headers={'Authorization': header} if header else None)
    assert server.metrics.value('rtjax_connections_total', outcome='unauthorized') == 4
    assert get(port, '/healthz')[0] == 200
    for path in ('/', '/metrics', '/state', '/frame/0'):
      assert get(port, path)[0] == 401


def test_openpi_client_with_key():
  with serving(CountingPolicies(1), api_key='key') as (_, port):
    with pytest.raises(InvalidStatus, match='401'):
      client(port, api_key='other')
    policy = client(port, api_key='key')
    assert policy.infer({'image': image(), 'prompt': 'go'})['actions'][0, FRAMES] == 1
    password = base64.b64encode(b'anyone:key').decode()
    assert get(port, '/metrics', f'Basic {password}')[0] == get(port, '/metrics', 'Bearer key')[0] == 200


def test_http(opened):
  with serving(CountingPolicies(2)) as (_, port):
    connection = opened(port)
    connection.recv()
    assert get(port, '/frame/0')[0] == 404
    ask(connection, image=image(200), instruction='<b>go</b>')
    ask(connection, image=image(200))
    ask(connection, imgae=1)
    assert get(port, '/healthz') == (200, 'text/plain', 'OK\n')
    status, kind, page = get(port, '/')
    assert status == 200 and kind.startswith('text/html') and '/* STYLE */' not in page and '<b>go' not in page
    state = json.loads(get(port, '/state')[2])
    assert state['requests'] == {'answered': 2, 'refused': 1, 'failed': 0}
    assert len(state['latency_ms']['recent']) == 2 and len(state['latency_ms']['percentiles']) == 3
    only, = state['clients']
    assert (only['slot'], only['task'], only['episode'], only['step']) == (0, '<b>go</b>', 1, 2)
    assert np.array(only['actions'])[:, :3].tolist() == [[1, 200, 9], [2, 200, 9]]
    assert get(port, '/frame/0')[:2] == (200, 'image/jpeg')
    for path in ('/frame/1', '/frame/', '/frame/-1', '/frame/x', '/frame/' + '0' * 5000, '//[', '/etc/passwd',
                 '/../../etc/passwd'):
      assert get(port, path)[0] == 404
    metrics = get(port, '/metrics')[2]
    for line in ('rtjax_requests_total{outcome="answered"} 2.0', 'rtjax_clients 1.0', 'rtjax_episodes_total 1.0',
                 'rtjax_request_seconds_count 2.0', 'process_resident_memory_bytes'):
      assert line in metrics


def test_graceful_shutdown(opened):
  """A running step is answered, idle connections are closed, new ones are refused."""
  policies = CountingPolicies(2, delay=0.5)
  with serving(policies) as (server, port):
    idle, busy = opened(port), opened(port)
    idle.recv(), busy.recv()
    busy.send(codec.pack({'image': image(), 'instruction': 'go'}))
    until(lambda: server.sessions.get(1).busy)
  assert codec.unpack(busy.recv(timeout=1))['actions'][0, FRAMES] == 1
  for connection in (busy, idle):
    with pytest.raises(ConnectionClosed, match='1001'):
      connection.recv(timeout=1)
  with pytest.raises(ConnectionRefusedError):
    opened(port)
