"""Load test of the policy server: robots, corrupted messages, dropped connections.

  python bench/serve.py [--seconds 300] [--clients 8] [--hz 5] [--model tiny|rt1|CHECKPOINT]

Prints one line of JSON: latency measured by the robots, and the server's memory and open files at the start and the
end. `tiny` is a model of a few thousand weights, so that the figures are those of the server. Exits with 1 if a robot
got an error.
"""
import asyncio
import json
import multiprocessing
import pathlib
import sys
import threading
import time
import urllib.request

import numpy as np
import tyro
from machine import describe
from websockets.sync.client import connect

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / 'clients' / 'python'), str(ROOT / 'tests')]

from rtjax_client import RemoteError, RemotePolicy, codec  # noqa: E402

# Proxy variables of the shell must not apply to this machine's own server.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
SIZE = {'tiny': (64, 80), 'rt1': (256, 320)}


def run_server(model: str, clients: int, port) -> None:
  """Run the server, in a process whose memory is measured."""
  from helpers.tiny_rt1 import TINY

  import rtjax
  from rtjax.checkpoints import PolicyMetadata
  from rtjax.models import RT1Config, build
  from rtjax.policies.image_size import input_size
  from rtjax.policies.policy import BatchPolicy
  from rtjax.serving.server import Server, warm_up
  if model in SIZE:
    config = TINY if model == 'tiny' else RT1Config()
    policies = BatchPolicy(build(config, seed=0), clients,
                           PolicyMetadata(embedding_id='hashed-ngrams/1'))
  else:
    policies = rtjax.load_policy(model, robots=clients)
  size = SIZE.get(model) or input_size(policies.config, policies.metadata)
  warm_up(policies, size)
  asyncio.run(Server(policies, size, name=model).run('127.0.0.1', 0, asyncio.Event(), port.send))


class Robots:
  """Clients that step at a fixed rate, in episodes of 50 steps."""

  def __init__(self, port: int, clients: int, hz: float, seconds: float):
    self.latencies: list[float] = []
    self.errors: list[str] = []
    self.late = 0  # steps whose reply came after the next one was due
    self._port, self._period, self._end = port, 1 / hz, time.monotonic() + seconds
    self._threads = [threading.Thread(target=self._robot, args=(number,)) for number in range(clients)]
    for thread in self._threads:
      thread.start()

  def join(self) -> None:
    for thread in self._threads:
      thread.join()

  def _robot(self, number: int) -> None:
    random = np.random.default_rng(number)
    time.sleep(random.uniform(0, self._period))
    with RemotePolicy(port=self._port, timeout=10) as policy:
      images = random.integers(0, 256, (8, *policy.metadata['image_size'], 3), dtype=np.uint8)
      step, due = 0, time.monotonic()
      while due < self._end:
        if step % 50 == 0:
          policy.reset(f'robot {number} begins episode {step // 50}')
        try:
          out = policy.step(images[step % 8])
          self.latencies.append(out.timing['total_ms'])
          if out.begins != (step % 50 == 0):
            self.errors.append('an episode began or did not begin unexpectedly')
        except RemoteError as error:
          self.errors.append(str(error))
        step, due = step + 1, due + self._period
        self.late += time.monotonic() > due
        time.sleep(max(0.0, due - time.monotonic()))


def stress(port: int, size: tuple[int, int], malformed: int, dropped: int) -> dict[str, int]:
  """Send corrupted messages, and drop connections, some of them during a step."""
  random = np.random.default_rng(0)
  valid = codec.pack({'image': np.zeros((*size, 3), np.uint8), 'instruction': 'go', 'reset': True})
  counts = {'refused': 0, 'answered': 0, 'leaks': 0}
  for start in range(0, malformed, 100):
    with connect(f'ws://127.0.0.1:{port}', compression=None, proxy=None) as connection:
      connection.recv()
      for _ in range(min(100, malformed - start)):
        connection.send(_corrupt(valid, random))
        reply = connection.recv(timeout=30)
        counts['refused' if isinstance(reply, str) else 'answered'] += 1
        counts['leaks'] += isinstance(reply, str) and ('Traceback' in reply or '.py' in reply)
  for number in range(dropped):
    with connect(f'ws://127.0.0.1:{port}', compression=None, proxy=None) as connection:
      connection.recv()
      if number % 2:
        connection.send(valid)
      connection.socket.shutdown(2)
    time.sleep(0.02)
  return counts


def _corrupt(valid: bytes, random: np.random.Generator) -> bytes | str:
  variant = random.integers(5)
  if variant == 0:
    return random.bytes(random.integers(1, 500))
  if variant == 1:
    return valid[:random.integers(len(valid))]
  if variant == 2:
    return codec.pack({str(random.integers(100)): 1})
  if variant == 3:
    return 'text'
  corrupted = bytearray(valid)
  for index in random.integers(0, 60, 3):
    corrupted[index] = random.integers(256)
  return bytes(corrupted)


def gauges(port: int) -> dict[str, float]:
  """Return memory, open files and clients, from the server's metrics."""
  with DIRECT.open(f'http://127.0.0.1:{port}/metrics', timeout=30) as reply:
    lines = [line.rsplit(' ', 1) for line in reply.read().decode().splitlines() if not line.startswith('#')]
  values = {name: float(value) for name, value in lines}
  return {'memory_mib': round(values['process_resident_memory_bytes'] / 2 ** 20, 1),
          'files': int(values['process_open_fds']), 'clients': int(values['rtjax_clients']),
          'mean_batch': round(values['rtjax_batch_size_sum'] / max(1, values['rtjax_batch_size_count']), 2)}


def main(seconds: float = 300, clients: int = 8, hz: float = 5, model: str = 'tiny', malformed: int = 1000,
         dropped: int = 100) -> None:
  context = multiprocessing.get_context('spawn')
  receiver, sender = context.Pipe(duplex=False)
  server = context.Process(target=run_server, args=(model, clients + 1, sender), daemon=True)
  server.start()
  try:
    port = receiver.recv()
    warm = Robots(port, clients, hz, min(20, seconds / 4))  # until buffers and caches have their final size
    warm.join()
    memory = [gauges(port)]
    robots = Robots(port, clients, hz, seconds)
    while any(thread.is_alive() for thread in robots._threads):
      time.sleep(min(30, seconds / 4))
      memory.append(gauges(port))
    robots.join()
    other = Robots(port, 1, hz, 20)
    with DIRECT.open(f'http://127.0.0.1:{port}/state', timeout=30) as reply:
      size = tuple(json.load(reply)['metadata']['image_size'])
    counts = stress(port, size, malformed, dropped)
    other.join()
    time.sleep(1)
    memory.append(gauges(port))
  finally:
    server.terminate()
    server.join()
  errors = warm.errors + robots.errors + other.errors
  p50, p95, p99 = np.percentile(robots.latencies, (50, 95, 99)).round(2)
  print(json.dumps({
      'benchmark': 'serve', 'model': model, 'clients': clients, 'hz': hz, 'seconds': seconds,
      'steps': len(robots.latencies), 'errors': len(errors), 'late': robots.late, 'p50_ms': p50, 'p95_ms': p95,
      'p99_ms': p99, 'max_ms': round(max(robots.latencies), 2), 'start': memory[0], 'loaded': memory[-2],
      'stressed': memory[-1] | {'malformed': malformed, 'dropped': dropped} | counts,
      'memory_mib': [m['memory_mib'] for m in memory], **describe()}))
  if errors:
    sys.exit(f'error: {errors[0]}')


if __name__ == '__main__':
  tyro.cli(main)
