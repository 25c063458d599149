"""Sessions: one for each connected client, in one of the policy's slots."""
import collections
import dataclasses
import time
from collections.abc import Iterator

import numpy as np

from rtjax.policies.policy import PolicyOutput

CURVE = 100
"""Number of actions of each client on the status page."""


@dataclasses.dataclass(eq=False)
class Session:
  """Connection of one client.

  Attributes:
    slot: its slot in the policy.
    peer: its address.
    task: its last instruction, as text or embedding; None before the first observation.
    started: whether its slot holds the frames of a running episode.
    busy: whether it waits for a reply.
    lost: whether it lost its slot to another client.
    connected: `time.monotonic` of the connection.
    active: `time.monotonic` of the last step, or of the connection.
    episodes, step: number of episodes begun, and of steps of the current one.
    seconds: duration of the last step, waiting included.
    image, actions, confidence: the last frame, the last actions ([A] each), the mean confidence of the last one.
  """
  slot: int
  peer: str
  task: str | np.ndarray | None = None
  started: bool = False
  busy: bool = False
  lost: bool = False
  connected: float = dataclasses.field(default_factory=time.monotonic)
  active: float = dataclasses.field(default_factory=time.monotonic)
  episodes: int = 0
  step: int = 0
  seconds: float = 0.0
  image: np.ndarray | None = None
  actions: collections.deque[np.ndarray] = dataclasses.field(default_factory=lambda: collections.deque(maxlen=CURVE))
  confidence: float = 0.0

  def record(self, image: np.ndarray, output: PolicyOutput, begins: bool, seconds: float) -> None:
    """Record a step for the status page.

    Args:
      begins: whether the step is the first of an episode.
    """
    if begins:
      self.episodes, self.step = self.episodes + 1, 0
      self.actions.clear()
    self.step += 1
    self.active = time.monotonic()
    self.image, self.seconds, self.confidence = image, seconds, float(output.confidence.mean())
    self.actions.append(output.plan[0])


class Sessions:
  """Sessions of the connected clients; for the event loop's thread only."""

  def __init__(self, slots: int):
    self.slots = slots
    self._open: dict[int, Session] = {}

  def __len__(self) -> int:
    return len(self._open)

  def __iter__(self) -> Iterator[Session]:
    return iter([self._open[slot] for slot in sorted(self._open)])

  def get(self, slot: int) -> Session | None:
    """Return the session in a slot, or None."""
    return self._open.get(slot)

  def open(self, peer: str) -> Session | None:
    """Open a session in the lowest free slot; None if none is."""
    for slot in range(self.slots):
      if slot not in self._open:
        self._open[slot] = Session(slot, peer)
        return self._open[slot]
    return None

  def close(self, session: Session) -> None:
    """Free the slot of a session, unless another one has it."""
    if self._open.get(session.slot) is session:
      del self._open[session.slot]

  def take_unused(self, seconds: float) -> Session | None:
    """Free the slot that is unused for the longest time.

    Args:
      seconds: least time since the connection, in which the client took no step.

    Returns:
      The session that lost it; None if there is no such slot.
    """
    unused = [s for s in self if not (s.episodes or s.busy) and time.monotonic() - s.connected >= seconds]
    if not unused:
      return None
    found = min(unused, key=lambda session: session.connected)
    found.lost = True
    self.close(found)
    return found
