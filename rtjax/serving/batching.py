"""Batching of many clients' requests into steps of the model.

The model runs in its own thread. While a step runs, requests queue up, and the next step takes all of them. When the
model is idle, a lone client is served at once, one of several after a short delay in which others may join. Each client
waits for its reply before it sends again, so that a step never gets two requests of one slot.
"""
import asyncio
import concurrent.futures
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from rtjax.policies.policy import BatchPolicy, NonFiniteInput, NonFiniteOutput, PolicyOutput
from rtjax.serving.metrics import Metrics
from rtjax.serving.protocol import Hold, ProtocolError, Request
from rtjax.serving.sessions import Session, Sessions

# Clients whose control loops run in step send within a millisecond or two of each other.
_JOIN_S = 0.002


@dataclasses.dataclass(frozen=True, eq=False)
class _Pending:
  session: Session
  request: Request
  result: asyncio.Future
  received: float

  @property
  def begins(self) -> bool:
    """Whether the request begins an episode."""
    return self.request.reset or not self.session.started


@dataclasses.dataclass(frozen=True)
class Result:
  """Result of a step for one client.

  Attributes:
    output: the policy's output.
    timing: durations for the client.
    begins: whether the step was the first of an episode.
  """
  output: PolicyOutput
  timing: dict[str, Any]
  begins: bool


class Batcher:
  """Runs a policy for all sessions.

  Attributes:
    healthy: False after a step that failed or gave no finite action, until one succeeds.
  """

  def __init__(self, policies: BatchPolicy, sessions: Sessions, metrics: Metrics):
    self.healthy = True
    self._state_size = policies.config.proprioception_size
    self._policies, self._sessions, self._metrics = policies, sessions, metrics
    self._queue: asyncio.Queue[_Pending] = asyncio.Queue()
    self._worker = concurrent.futures.ThreadPoolExecutor(1, 'policy')

  async def step(self, session: Session, request: Request) -> Result:
    """Run one step of one session.

    Raises:
      ProtocolError: the request does not fit the policy or the session's state.
      Hold: the input or the policy's output is not finite; in the latter case the session's episode is over.
      Exception: the model failed; the session's episode is over.
    """
    pending = _Pending(session, request, asyncio.get_running_loop().create_future(), time.monotonic())
    self._queue.put_nowait(pending)
    return await pending.result

  async def run(self) -> None:
    """Serve until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
      batch = [await self._queue.get()]
      self._take_queued(batch)
      if len(batch) < len(self._sessions):
        await asyncio.sleep(_JOIN_S)
        self._take_queued(batch)
      results = await loop.run_in_executor(self._worker, self._results, batch)
      for pending, result in zip(batch, results, strict=True):
        if pending.result.done():  # cancelled: the client is gone
          continue
        if isinstance(result, Exception):
          pending.result.set_exception(result)
        else:
          pending.result.set_result(result)

  def close(self) -> None:
    """Wait for the running step."""
    self._worker.shutdown(wait=True)

  def _take_queued(self, batch: list[_Pending]) -> None:
    while not self._queue.empty():
      batch.append(self._queue.get_nowait())

  def _results(self, batch: list[_Pending]) -> list[Result | Exception]:
    """Return a result or an error for each request (worker thread)."""
    begins = [pending.begins for pending in batch]
    errors = [self._prepare(pending) for pending in batch]
    ready = [pending for pending, error in zip(batch, errors, strict=True) if error is None]
    try:
      outputs = iter(self._step(ready) if ready else ())
    except Exception as failure:
      self.healthy = False
      for pending in ready:
        pending.session.started = False  # the state of its slot is unknown
      return [error or failure for error in errors]
    return [error or self._result(pending, *next(outputs), begun)
            for pending, error, begun in zip(batch, errors, begins, strict=True)]

  def _result(self, pending: _Pending, output: PolicyOutput | None, timing: dict[str, Any], begins: bool
              ) -> Result | Hold:
    if output is not None:
      return Result(output, timing, begins)
    pending.session.started = False
    return Hold('the policy computed NaN or infinite numbers, or tokens that stand for no actions: hold the robot. The '
                'episode is over: the next observation begins a new one.', 'failed')

  def _step(self, ready: list[_Pending]) -> list[tuple[PolicyOutput | None, dict[str, Any]]]:
    started = time.monotonic()
    received = [p.request.proprioception for p in ready]
    states = np.stack([s for s in received if s is not None]) if self._state_size else None  # _prepare checked them
    images, slots = np.stack([p.request.image for p in ready]), [p.session.slot for p in ready]
    outputs = self._finite_outputs(images, slots, states)
    seconds = time.monotonic() - started
    self.healthy = any(output is not None for output in outputs)
    self._metrics.batches.observe(len(ready))
    self._metrics.step_seconds.observe(seconds)
    return [(output, {'infer_ms': 1000 * seconds, 'wait_ms': 1000 * (started - pending.received), 'batch': len(ready)})
            for pending, output in zip(ready, outputs, strict=True)]

  def _finite_outputs(self, images: np.ndarray, slots: list[int], states: np.ndarray | None
                      ) -> Sequence[PolicyOutput | None]:
    """Return the outputs; None in place of those that are not finite."""
    outputs: Sequence[PolicyOutput | None]
    try:
      outputs = self._policies.step(images, slots, states)
    except NonFiniteOutput as error:
      outputs = error.outputs
    return [output if output is not None and np.isfinite(output.plan).all() and np.isfinite(output.logits).all()
            else None for output in outputs]

  def _prepare(self, pending: _Pending) -> Exception | None:
    """Prepare the slot of a request; return the error, if any."""
    try:
      self._prepare_slot(pending)
    except NonFiniteInput as error:
      return Hold(str(error))
    except ValueError as error:  # the policy's message about a bad instruction or embedding
      return ProtocolError(str(error))
    except Exception as error:
      return error
    return None

  def _prepare_slot(self, pending: _Pending) -> None:
    session, request = pending.session, pending.request
    if not pending.begins and not self._policies.in_episode(session.slot):
      session.started = False
      raise RuntimeError('the cache of this episode was lost when a step of other clients failed.')
    task = request.embedding if request.instruction is None else request.instruction
    if task is None:
      task = session.task
    if task is None:
      raise ProtocolError("the first observation has no 'instruction' (nor 'prompt', nor 'embedding').")
    state = request.proprioception
    if self._state_size and (state is None or state.shape != (self._state_size,)):
      raise ProtocolError(f"this policy uses the robot's state: proprioception is "
                          f'{"missing" if state is None else f"of shape {state.shape}"}, expected float32 '
                          f'[{self._state_size}] at every step.')
    text, embedding = (task, None) if isinstance(task, str) else (None, task)
    if pending.begins:
      self._policies.reset(session.slot, text, embedding=embedding)
    elif not _equal(task, session.task):
      self._policies.set_instruction(session.slot, text, embedding=embedding)
    session.task, session.started = task, True


def _equal(a: str | np.ndarray, b: str | np.ndarray | None) -> bool:
  return type(a) is type(b) and np.array_equal(a, b)  # type: ignore[arg-type]
