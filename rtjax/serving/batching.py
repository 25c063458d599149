"""Observations of many clients to few steps of the model, in a thread of its own.

While a step runs, observations gather; the next step takes all of them. With nothing to do a lone client is served at
once, one of several after a moment in which others may join it. Each client waits for its answer before it sends
again, so that a step never sees a slot twice.
"""
import asyncio
import concurrent.futures
import dataclasses
import time
from typing import Any

import numpy as np

from rtjax.policies.policy import BatchPolicy, PolicyOutput
from rtjax.serving.metrics import Metrics
from rtjax.serving.protocol import Observation, ProtocolError
from rtjax.serving.sessions import Session, Sessions

# Clients whose control loops run in step send within a millisecond or two of each other.
_GATHER_S = 0.002


@dataclasses.dataclass(frozen=True, eq=False)
class _Request:
  session: Session
  observation: Observation
  answer: asyncio.Future
  arrived: float

  @property
  def begins(self) -> bool:
    return self.observation.reset or not self.session.started


@dataclasses.dataclass(frozen=True)
class Answer:
  """What a step gave: the policy's output, its times for the client, and whether it began an episode."""
  out: PolicyOutput
  timing: dict[str, Any]
  begins: bool


class Batcher:
  """Runs a policy for all sessions.

  Attributes:
    healthy: False after a step that failed, until one succeeds.
  """

  def __init__(self, policies: BatchPolicy, sessions: Sessions, metrics: Metrics):
    self.healthy = True
    self._state_size = policies.config.proprioception_size
    self._policies, self._sessions, self._metrics = policies, sessions, metrics
    self._waiting: asyncio.Queue[_Request] = asyncio.Queue()
    self._worker = concurrent.futures.ThreadPoolExecutor(1, 'policy')

  async def step(self, session: Session, observation: Observation) -> Answer:
    """One step of one session.

    Raises:
      ProtocolError: the observation does not fit the policy or the session's state.
      Exception: the model failed; the session's episode is over.
    """
    request = _Request(session, observation, asyncio.get_running_loop().create_future(), time.monotonic())
    self._waiting.put_nowait(request)
    return await request.answer

  async def run(self) -> None:
    """Serves until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
      requests = [await self._waiting.get()]
      self._take_waiting(requests)
      if len(requests) < len(self._sessions):
        await asyncio.sleep(_GATHER_S)
        self._take_waiting(requests)
      answers = await loop.run_in_executor(self._worker, self._answers, requests)
      for request, answer in zip(requests, answers, strict=True):
        if request.answer.done():  # cancelled: nobody waits for it any more
          continue
        if isinstance(answer, Exception):
          request.answer.set_exception(answer)
        else:
          request.answer.set_result(answer)

  def close(self) -> None:
    self._worker.shutdown(wait=True)

  def _take_waiting(self, requests: list[_Request]) -> None:
    while not self._waiting.empty():
      requests.append(self._waiting.get_nowait())

  def _answers(self, requests: list[_Request]) -> list[Answer | Exception]:
    """In the worker's thread: an answer or an error for each request."""
    begins = [request.begins for request in requests]
    failures = [self._failure(request) for request in requests]
    ready = [request for request, failure in zip(requests, failures, strict=True) if failure is None]
    try:
      outs = iter(self._step(ready) if ready else ())
    except Exception as error:
      self.healthy = False
      for request in ready:
        request.session.started = False  # what its slot remembers is not known
      return [failure or error for failure in failures]
    return [failure or Answer(*next(outs), begun) for failure, begun in zip(failures, begins, strict=True)]

  def _step(self, ready: list[_Request]) -> list[tuple[PolicyOutput, dict[str, Any]]]:
    started = time.monotonic()
    given = [r.observation.proprioception for r in ready]
    states = np.stack([s for s in given if s is not None]) if self._state_size else None  # none lacks it: _prepare
    outs = self._policies.step(np.stack([r.observation.image for r in ready]), [r.session.slot for r in ready], states)
    seconds = time.monotonic() - started
    self.healthy = True
    self._metrics.batches.observe(len(ready))
    self._metrics.step_seconds.observe(seconds)
    return [(out, {'infer_ms': 1000 * seconds, 'wait_ms': 1000 * (started - request.arrived), 'batch': len(ready)})
            for request, out in zip(ready, outs, strict=True)]

  def _failure(self, request: _Request) -> Exception | None:
    """Prepares a session; returns what went wrong."""
    try:
      self._prepare(request)
    except ValueError as error:  # the policy's words for a bad instruction or embedding
      return ProtocolError(str(error))
    except Exception as error:
      return error
    return None

  def _prepare(self, request: _Request) -> None:
    """Brings the session's slot to what the observation asks for."""
    session, observation = request.session, request.observation
    if not request.begins and not self._policies.in_episode(session.slot):
      session.started = False
      raise RuntimeError('the history of this episode was lost when a step of other clients failed.')
    task = observation.embedding if observation.instruction is None else observation.instruction
    if task is None:
      task = session.task
    if task is None:
      raise ProtocolError("the first observation has no 'instruction' (nor 'prompt', nor 'embedding').")
    state = observation.proprioception
    if self._state_size and (state is None or state.shape != (self._state_size,)):
      raise ProtocolError(f"this policy looks at the robot's state: proprioception is "
                          f'{"missing" if state is None else f"of shape {state.shape}"}, expected float32 '
                          f'[{self._state_size}] at every step.')
    text, embedding = (task, None) if isinstance(task, str) else (None, task)
    if request.begins:
      self._policies.reset(session.slot, text, embedding=embedding)
    elif not _same(task, session.task):
      self._policies.set_instruction(session.slot, text, embedding=embedding)
    session.task, session.started = task, True


def _same(a: str | np.ndarray, b: str | np.ndarray | None) -> bool:
  return type(a) is type(b) and np.array_equal(a, b)  # type: ignore[arg-type]
