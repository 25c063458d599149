"""Vector environment that names a process that died."""
import signal
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from gymnasium.vector import AsyncVectorEnv
from gymnasium.vector.async_vector_env import AsyncState

from rtjax.runtime.cli import UserError

_EXIT_S = 5.0


class EnvironmentDied(UserError):
  """The process of an environment ended in the middle of its work.

  Attributes:
    index: of the environment.
  """

  def __init__(self, message: str, index: int):
    super().__init__(message)
    self.index = index


class VectorEnv(AsyncVectorEnv):
  """`AsyncVectorEnv` whose calls raise `EnvironmentDied` if a process died."""

  def _check_spaces(self) -> None:  # the first use of the pipes, in the constructor
    pipes: list[Any] = [_Pipe(pipe, process, index, self.num_envs) for index, (pipe, process)
                        in enumerate(zip(self.parent_pipes, self.processes, strict=True))]
    self.parent_pipes = pipes
    try:
      super()._check_spaces()
    except EnvironmentDied:
      self.close(terminate=True)
      raise

  def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
    if not all(process.is_alive() for process in self.processes):
      self._state, terminate = AsyncState.DEFAULT, True  # a dead process answers no pending call
    super().close_extras(timeout, terminate)


class _Pipe:
  """Pipe to the process of an environment."""

  def __init__(self, pipe: Connection, process: BaseProcess, index: int, count: int):
    self._pipe, self._process, self._index, self._count = pipe, process, index, count

  @property
  def closed(self) -> bool:
    return self._pipe.closed

  def close(self) -> None:
    self._pipe.close()

  def poll(self, timeout: float | None = 0.0) -> bool:
    return self._pipe.poll(timeout)

  def send(self, message: Any) -> None:
    try:
      self._pipe.send(message)
    except OSError as error:
      raise self._died() from error

  def recv(self) -> Any:
    try:
      return self._pipe.recv()
    except (EOFError, OSError) as error:
      raise self._died() from error

  def _died(self) -> EnvironmentDied:
    self._process.join(_EXIT_S)
    return EnvironmentDied(f'environment {self._index} of {self._count} (process {self._process.pid}) '
                           f'{_ending(self._process.exitcode)}.', self._index)


def _ending(code: int | None) -> str:
  """Describe how a process ended, by its exit code."""
  if code is None:
    return 'closed its connection'
  if code >= 0:
    return f'ended with exit status {code}; its own message, if any, is above'
  name = signal.Signals(-code).name if -code in set(signal.Signals) else f'signal {-code}'
  crash = ', a crash of the simulator or its driver'
  hints = {'SIGKILL': ', as the system does when memory is short', 'SIGSEGV': crash, 'SIGABRT': crash}
  return f'was killed by {name}{hints.get(name, "")}'
