"""rtjax-client: images, episodes, broken connections, deadlines; and its adapter for SimplerEnv."""
import ast
import concurrent.futures
import contextlib
import importlib.util
import pathlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
import pytest
import rtjax_client
from helpers.fakes import SIZE, CountingPolicies, serving, until
from rtjax_client import ActionTimeout, ConnectionLost, Hold, RemotePolicy, ServerError, codec, resize_with_pad
from rtjax_client import policy as client
from scipy.spatial.transform import Rotation
from websockets.server import ServerProtocol
from websockets.sync.client import connect
from websockets.sync.server import serve

from rtjax import actions
from rtjax.models.layers import resize

PACKAGE = pathlib.Path(rtjax_client.__file__).parent
EXAMPLE = PACKAGE.parent / 'examples' / 'simpler_env_policy.py'

FRAMES = 0  # index in the plan of CountingPolicies
IMAGE = np.full((*SIZE, 3), 9, np.uint8)


@contextlib.contextmanager
def scripted(handler) -> Iterator[int]:
  """Run a server with this handler; yields its port."""
  with serve(handler, '127.0.0.1', 0, max_size=None) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
      yield server.socket.getsockname()[1]
    finally:
      server.shutdown()
      thread.join()


def metadata(connection) -> None:
  connection.send(codec.pack({'image_size': list(SIZE)}))


def reply(number: float) -> bytes:
  return codec.pack({'actions': np.full((1, 7), number, np.float32), 'action': {'gripper': [number]}, 'tokens': [0],
                     'confidence': [1.0], 'begins': False, 'server_timing': {}})


@pytest.mark.parametrize('source', [(256, 320), (480, 640), (97, 51), (3, 200), (64, 80)])
@pytest.mark.parametrize('target', [(64, 80), (128, 128)])
def test_resize_equals_the_training_pipeline(source, target):
  image = np.random.default_rng(0).integers(0, 256, (*source, 3), dtype=np.uint8)
  expected = np.asarray(resize.resize_with_pad(jnp.asarray(image[None], jnp.float32), target))[0].astype(np.uint8)
  np.testing.assert_array_equal(resize_with_pad(image, target), expected)


def test_steps_and_episodes():
  with serving(CountingPolicies(1), api_key='key') as (_, port), RemotePolicy(port=port, api_key='key') as policy:
    with pytest.raises(ValueError, match='reset'):
      policy.step(IMAGE)
    policy.reset('lift it')
    first = policy.step(np.full((8, 12, 3), 5, np.uint8))  # twice the size
    assert first.begins and first.plan[0, :3].tolist() == [1, 5, 7]
    assert first.action['gripper'].dtype == np.float32 and first.action['gripper'].tolist() == [1]
    assert first.tokens.tolist() == list(range(7)) and first.confidence.tolist() == [0.5] * 7
    policy.set_instruction(embedding=np.full(512, 0.25))
    second = policy.step(IMAGE)
    assert not second.begins and second.plan[0, :3].tolist() == [2, 9, 0.25]
    assert 0 < second.timing['infer_ms'] <= second.timing['total_ms']
    policy.reset('again')
    assert policy.step(IMAGE, proprioception=np.zeros(7)).plan[0, FRAMES] == 1
    with pytest.raises(ValueError, match=r'float64 \(4, 6, 3\)'):
      policy.step(IMAGE / 255)
    policy.reset(embedding=np.zeros(3))
    with pytest.raises(ServerError, match=r'expected \(512,\)'):
      policy.step(IMAGE)
    policy.reset('better')
    assert policy.step(IMAGE).begins


def test_reconnects_in_the_same_step():
  """A broken connection is opened again, and the reply says that the episode begins."""
  with serving(CountingPolicies(1)) as (server, port), RemotePolicy(port=port) as policy:
    policy.reset('go')
    policy.step(IMAGE), policy.step(IMAGE)
    policy._connection.socket.shutdown(2)
    third = policy.step(IMAGE)
    assert third.begins and third.plan[0, :3].tolist() == [1, 9, 2]
    assert len(server.sessions) == 1 and not policy.step(IMAGE).begins


def test_hold():
  """No action where numbers are not finite; the policy's failure begins a new episode."""
  policies = CountingPolicies(1)
  with serving(policies) as (_, port), RemotePolicy(port=port) as policy:
    policy.reset('go')
    policy.step(IMAGE)
    with pytest.raises(Hold, match='hold: proprioception holds NaN'):
      policy.step(IMAGE, proprioception=np.array([np.nan]))
    policies.not_finite = {0: np.nan}
    with pytest.raises(Hold, match='hold: the policy computed NaN'):
      policy.step(IMAGE)
    policies.not_finite = {}
    assert policy.step(IMAGE).begins


GOOD = {'actions': np.ones((1, 7), np.float32), 'action': {'gripper': [1.0]}, 'tokens': [0], 'confidence': [1.0],
        'begins': False, 'server_timing': {}}


@pytest.mark.parametrize(('message', 'error', 'words'), [
    (b'\xc1', ServerError, 'no msgpack map'), (codec.pack([1]), ServerError, 'sent a list, expected a map'),
    *[(codec.pack({k: v for k, v in GOOD.items() if k != name}), ServerError, f'without an action: .*{name}')
      for name in GOOD],
    (codec.pack(GOOD | {'action': [1.0]}), ServerError, 'without an action'),
    (codec.pack(GOOD | {'action': {'gripper': 'open'}}), ServerError, 'without an action'),
    (codec.pack(GOOD | {'tokens': [2 ** 40]}), ServerError, 'without an action'),
    (codec.pack(GOOD | {'action': {'gripper': [float('nan')]}}), Hold, 'NaN or infinite'),
    (codec.pack(GOOD | {'actions': np.full((1, 7), np.inf)}), Hold, 'NaN or infinite')])
def test_messages_of_a_broken_server_move_no_robot(message, error, words):
  def handler(connection):
    metadata(connection)
    for _ in connection:
      connection.send(message)
  with scripted(handler) as port, RemotePolicy(port=port) as policy:
    policy.reset('go')
    with pytest.raises(error, match=words):
      policy.step(IMAGE)


@pytest.mark.parametrize('first', [{}, {'image_size': [0, 4]}, {'image_size': 'ab'}, {'image_size': [1, 2, 3]}])
def test_a_server_of_another_kind(first):
  with scripted(lambda connection: connection.send(codec.pack(first))) as port, pytest.raises(
      ServerError, match='is no policy server of rtjax'):
    RemotePolicy(port=port, connect_timeout=1)


def test_threads_get_the_answers_to_their_own_images():
  with serving(CountingPolicies(1)) as (_, port), RemotePolicy(port=port, timeout=20) as policy:
    policy.reset('go')

    def run(value):
      return {policy.step(np.full_like(IMAGE, value)).plan[0, 1] for _ in range(100)}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
      assert list(pool.map(run, (3, 4))) == [{3}, {4}]


def test_a_server_that_restarts():
  with serving(CountingPolicies(1)) as (_, port):
    policy = RemotePolicy(port=port, timeout=0.5)
    policy.reset('go')
    policy.step(IMAGE)
  started = time.monotonic()
  with pytest.raises(ConnectionLost, match='refused'):
    policy.step(IMAGE)
  assert time.monotonic() - started < 5
  with serving(CountingPolicies(1), port=port):
    assert policy.step(IMAGE).begins
    policy.close()


def test_refused():
  with serving(CountingPolicies(1), api_key='key') as (_, port):
    with pytest.raises(ConnectionLost, match='requires its API key'):
      RemotePolicy(port=port, api_key='other')
    with RemotePolicy(port=port, api_key='key'), pytest.raises(ConnectionLost, match='all 1 slots are taken'):
      RemotePolicy(port=port, api_key='key', connect_timeout=0.3)


def test_a_refusal_before_the_client_reads(monkeypatch):
  """The server closed the connection before the client reads: the error still gives the reason."""
  def slow(*args, **options):
    connection = connect(*args, **options)
    time.sleep(0.2)
    return connection
  with serving(CountingPolicies(1)) as (_, port), RemotePolicy(port=port):
    monkeypatch.setattr(client, 'connect', slow)
    with pytest.raises(ConnectionLost, match='all 1 slots are taken'):
      RemotePolicy(port=port, connect_timeout=0.3)


def test_a_late_reply_is_not_taken_for_the_next():
  policies = CountingPolicies(1)
  with serving(policies) as (server, port), RemotePolicy(port=port, timeout=0.3) as policy:
    policy.reset('go')
    policy.step(IMAGE)
    policies.delay = 0.5
    with pytest.raises(ActionTimeout, match=r'within 0\.3 s'):
      policy.step(np.full_like(IMAGE, 1))
    until(lambda: not server.sessions.get(0).busy)
    policies.delay = 0.0
    answer = policy.step(np.full_like(IMAGE, 2))
    assert answer.plan[0, :2].tolist() == [3, 2] and not answer.begins  # the late frame counts


def test_reset_is_repeated_after_a_first_observation_that_is_late_and_refused():
  received = []

  def handler(connection):
    metadata(connection)
    for message in connection:
      received.append(codec.unpack(message)['reset'])
      if len(received) == 1:
        time.sleep(0.4)
        connection.send('refused')
      else:
        connection.send(reply(len(received)))

  with scripted(handler) as port, RemotePolicy(port=port, timeout=0.3) as policy:
    policy.reset('go')
    with pytest.raises(ActionTimeout):
      policy.step(IMAGE)
    assert [policy.step(IMAGE).plan[0, 0], policy.step(IMAGE).plan[0, 0]] == [2, 3]
  assert received == [True, True, False]


def test_a_server_that_does_not_read_cannot_hold_a_step():
  """Sending blocks when the buffers are full, but no longer than the timeout of the step."""
  size = (4000, 4000)
  stop = threading.Event()

  def greet_and_sleep():
    connection, _ = listener.accept()
    with connection:
      protocol = ServerProtocol()
      protocol.receive_data(connection.recv(4096))
      protocol.send_response(protocol.accept(protocol.events_received()[0]))
      protocol.send_binary(codec.pack({'image_size': list(size)}))
      connection.sendall(b''.join(protocol.data_to_send()))
      stop.wait(20)

  with socket.create_server(('127.0.0.1', 0)) as listener:
    thread = threading.Thread(target=greet_and_sleep)
    thread.start()
    policy = RemotePolicy(port=listener.getsockname()[1], timeout=0.5)
    policy.reset('go')
    started = time.monotonic()
    with pytest.raises((ActionTimeout, ConnectionLost)):
      policy.step(np.zeros((*size, 3), np.uint8))
    assert time.monotonic() - started < 10
    stop.set()
    thread.join()
    policy.close()


@pytest.mark.parametrize(('url', 'direct'), [
    ('ws://127.0.0.1:80', True), ('ws://localhost:80', True), ('ws://[::1]:80', True), ('ws://10.0.0.1:80', False),
    ('wss://robots.example.org', False)])
def test_proxies_do_not_apply_to_this_machine(url, direct):
  assert client._without_proxy(url) == ({'proxy': None} if direct else {})


def test_a_proxy_in_the_shell_does_not_break_a_local_connection(monkeypatch):
  for name in ('http_proxy', 'https_proxy', 'all_proxy', 'ws_proxy'):
    monkeypatch.setenv(name, 'http://127.0.0.1:9')  # nothing listens there
  with scripted(metadata) as port, RemotePolicy(port=port, connect_timeout=2) as policy:
    assert policy.metadata


@pytest.mark.parametrize('waits', [False, True])
def test_a_server_without_room(waits, monkeypatch):
  """Its answer may come before the request, for which websockets raises a bare AssertionError."""
  def answer():
    with contextlib.suppress(OSError):
      while True:
        connection, _ = listener.accept()
        with connection:
          if waits:
            connection.recv(4096)
          connection.sendall(b'HTTP/1.1 503 Service Unavailable\r\nContent-Length: 14\r\n\r\nhas no room...')

  def refuse(*_, **__):
    raise AssertionError("connection isn't closed yet")
  if not waits:
    monkeypatch.setattr(client, 'connect', refuse)
  with socket.create_server(('127.0.0.1', 0)) as listener:
    threading.Thread(target=answer, daemon=True).start()
    with pytest.raises(ConnectionLost, match='has no room'):
      RemotePolicy(port=listener.getsockname()[1], connect_timeout=0.3)
    listener.shutdown(socket.SHUT_RDWR)


def test_no_server():
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    with pytest.raises(ConnectionLost, match='refused'):
      RemotePolicy(port=free.getsockname()[1], connect_timeout=0.1)


def test_needs_numpy_only():
  code = ('import sys, rtjax_client; '
          'print({name.split(".")[0] for name in sys.modules} & {"jax", "rtjax", "PIL", "scipy", "tensorflow"})')
  done = subprocess.run([sys.executable, '-c', code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
  assert done.stdout.strip() == 'set()'


@pytest.mark.parametrize('path', [*PACKAGE.glob('*.py'), EXAMPLE], ids=lambda path: path.name)
def test_python_3_8_can_read_it(path):
  ast.parse(path.read_text(), feature_version=(3, 8))


@pytest.fixture(scope='module')
def example():
  spec = importlib.util.spec_from_file_location('simpler_env_policy', EXAMPLE)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


class Acting:
  """Fake RemotePolicy that returns one action."""

  def __init__(self, action):
    self.action, self.resets, self.embeddings = action, [], []

  def reset(self, instruction=None, *, embedding=None):
    self.resets.append(instruction)
    self.embeddings.append(embedding)

  def step(self, image):
    return rtjax_client.RemoteAction(self.action, None, None, None, False, {})


def test_simpler_rotation(example):
  for angles in [(0, 0, 0), *np.random.default_rng(0).uniform(-1.5, 1.5, (20, 3))]:
    np.testing.assert_allclose(example.rotation_vector(angles), Rotation.from_euler('xyz', angles).as_rotvec(),
                               atol=1e-12)


def test_simpler_adapter_over_the_wire(example):
  """reset(instruction), step(image) to seven numbers; another instruction begins an episode."""
  with serving(CountingPolicies(1)) as (_, port), RemotePolicy(port=port) as remote:
    model = example.SimplerPolicy('widowx_bridge', remote)
    model.reset('lift it')
    numbers = [model.act(IMAGE), model.act(IMAGE)]
    assert [n[:3].tolist() for n in numbers] == [[1, 9, 7], [2, 9, 7]] and all(n.shape == (7,) for n in numbers)
    raw, action = model.step(IMAGE, 'drop it', np.zeros(6))
    assert raw['translation'].tolist() == [1, 9, 7] and action['gripper'].tolist() == [1]
    assert not action['terminate_episode'][0] > 0


def test_simpler_adapter_for_rt1_actions(example):
  """The Google robot takes RT-1's numbers, the WidowX those of Bridge, scaled back from RT-1-X's data."""
  raw = {name: np.asarray(value) for name, value in actions.RT1.unpack(np.array(
      [0, 1, 0, 0.35, -1.75, 7, 0.14, 0, -0.28, 0.005, 0, 0, 0], np.float32)).items()}
  google = example.SimplerPolicy('google_robot', Acting(raw))
  _, action = google.step(IMAGE, 'go')
  np.testing.assert_allclose(action['world_vector'], [0.35, -1.75, 7], rtol=1e-6)
  np.testing.assert_allclose(action['rot_axangle'], [0.14, 0, -0.28], rtol=1e-6)
  assert action['gripper'].tolist() == [0] and action['terminate_episode'].tolist() == [0]

  closing = raw | {'gripper_closedness_action': np.array([0.9]), 'terminate_episode': np.array([1, 0, 0])}
  widow = example.SimplerPolicy('widowx_bridge', Acting(closing), embed=lambda text: np.full(512, len(text)))
  _, action = widow.step(IMAGE, 'go')
  np.testing.assert_allclose(action['world_vector'], [0.01, -0.05, 0.05], rtol=1e-6)
  expected = Rotation.from_euler('xyz', [0.025, 0, -0.05]).as_rotvec()
  np.testing.assert_allclose(action['rot_axangle'], expected, rtol=1e-5)
  assert action['gripper'].tolist() == [-1] and action['terminate_episode'].tolist() == [1]
  assert widow._policy.resets == [None] and widow._policy.embeddings[0][0] == 2

  with pytest.raises(ValueError, match='google_robot does not take'):
    example.SimplerPolicy('google_robot', Acting({'translation': np.zeros(3)})).act(IMAGE)
  with pytest.raises(ValueError, match="'widowx_bridge'"):
    example.SimplerPolicy('panda', Acting(raw))
