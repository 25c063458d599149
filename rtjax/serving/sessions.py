"""Who is connected: a session for each client, in one of the policy's slots."""
import collections
import dataclasses
import time
from collections.abc import Iterator

import numpy as np

from rtjax.policies.policy import PolicyOutput

CURVE = 100
"""Actions that the page shows of each client."""


@dataclasses.dataclass(eq=False)
class Session:
  """One client, from its connection to its end.

  Attributes:
    slot: its place in the policy.
    peer: where it comes from.
    task: what it was last told to do, a text or an embedding; None before its first observation.
    started: whether its slot holds the frames of a running episode.
    busy: whether it waits for an answer.
    connected: `time.monotonic` of its coming.
    episodes, step: episodes begun, and steps of the present one.
    seconds: what the last step took, waiting included.
    image, actions, confidence: the last frame, the last actions ([A] each), the mean confidence of the last one.
  """
  slot: int
  peer: str
  task: str | np.ndarray | None = None
  started: bool = False
  busy: bool = False
  connected: float = dataclasses.field(default_factory=time.monotonic)
  episodes: int = 0
  step: int = 0
  seconds: float = 0.0
  image: np.ndarray | None = None
  actions: collections.deque[np.ndarray] = dataclasses.field(default_factory=lambda: collections.deque(maxlen=CURVE))
  confidence: float = 0.0

  def note(self, image: np.ndarray, out: PolicyOutput, begins: bool, seconds: float) -> None:
    """Keeps what the page shows of a step; `begins` tells that it is an episode's first."""
    if begins:
      self.episodes, self.step = self.episodes + 1, 0
      self.actions.clear()
    self.step += 1
    self.image, self.seconds, self.confidence = image, seconds, float(out.confidence.mean())
    self.actions.append(out.plan[0])


class Sessions:
  """The clients at present, at most `slots`; only for the event loop's thread."""

  def __init__(self, slots: int):
    self.slots = slots
    self._open: dict[int, Session] = {}

  def __len__(self) -> int:
    return len(self._open)

  def __iter__(self) -> Iterator[Session]:
    return iter([self._open[slot] for slot in sorted(self._open)])

  def get(self, slot: int) -> Session | None:
    return self._open.get(slot)

  def open(self, peer: str) -> Session | None:
    """A session in the lowest free slot; None if all are taken."""
    for slot in range(self.slots):
      if slot not in self._open:
        self._open[slot] = Session(slot, peer)
        return self._open[slot]
    return None

  def close(self, session: Session) -> None:
    del self._open[session.slot]
