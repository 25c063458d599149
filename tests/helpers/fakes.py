"""A fake policy that records its inputs in its outputs, and a server in a thread."""
import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator

import numpy as np

from helpers.tiny_rt1 import TINY
from rtjax.checkpoints import PolicyMetadata
from rtjax.policies.policy import PolicyOutput
from rtjax.serving.server import Server

SIZE = (4, 6)


class CountingPolicies:
  """A plan holds: frames of the slot's episode, the image's first number, the task's, number of calls."""

  def __init__(self, robots: int, delay: float = 0.0):
    self.robots, self.config, self.metadata = robots, TINY, PolicyMetadata(embedding_id='counting')
    self.delay = delay
    self.frames = dict.fromkeys(range(robots), -1)
    self.task: dict[int, float] = {}
    self.batches: list[list[int]] = []
    self.states: list[np.ndarray | None] = []
    self.threads: set[str] = set()
    self.broken = False
    self.not_finite: dict[int, float] = {}  # slot -> number in place of its action

  def reset(self, slot, instruction=None, *, embedding=None):
    self.set_instruction(slot, instruction, embedding=embedding)
    self.frames[slot] = 0

  def in_episode(self, slot):
    return self.frames[slot] >= 0

  def set_instruction(self, slot, instruction=None, *, embedding=None):
    self.threads.add(threading.current_thread().name)
    if embedding is not None and embedding.shape != (512,):
      raise ValueError(f'embedding has shape {embedding.shape}, expected (512,).')
    self.task[slot] = len(instruction) if embedding is None else float(embedding[0])

  def step(self, images, slots, proprioception=None):
    self.states.append(proprioception)
    assert len(set(slots)) == len(slots) == len(images) and min(self.frames[slot] for slot in slots) >= 0
    self.threads.add(threading.current_thread().name)
    time.sleep(self.delay)
    if self.broken:
      raise RuntimeError('a secret of the server')
    self.batches.append(list(slots))
    return [self._output(slot, image) for slot, image in zip(slots, images, strict=True)]

  def _output(self, slot, image):
    self.frames[slot] += 1
    first = self.not_finite.get(slot, self.frames[slot])
    plan = np.array([[first, image.flat[0], self.task[slot], len(self.batches), 0, 0, 1]], np.float32)
    tokens = np.arange(7, dtype=np.int32)
    return PolicyOutput(self.config.action_spec.unpack(plan[0]), tokens, np.zeros((7, 256), np.float32),
                        np.full(7, 0.5, np.float32), plan)


@contextlib.contextmanager
def serving(policies, api_key: str = '', size: tuple[int, int] = SIZE, port: int = 0, **options
            ) -> Iterator[tuple[Server, int]]:
  """Run a server in a thread; yields the server and its port."""
  server = Server(policies, size, api_key, 'a model', **options)
  stop, ready, ports = asyncio.Event(), threading.Event(), []
  loop = asyncio.new_event_loop()

  def run():
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
      runner.run(server.run('127.0.0.1', port, stop, lambda number: (ports.append(number), ready.set())))

  thread = threading.Thread(target=run)
  thread.start()
  try:
    assert ready.wait(20)
    yield server, ports[0]
  finally:
    loop.call_soon_threadsafe(stop.set)
    thread.join(20)
    assert not thread.is_alive()


def until(condition, seconds: float = 5.0) -> None:
  """Wait until a condition holds that another thread brings about."""
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline, 'the condition did not become true'
    time.sleep(0.01)
