"""Who acts in an evaluation: a policy, the same network ignorant of something, an expert, or chance."""
import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from flax import nnx

import rtjax
from rtjax import models
from rtjax.actions import ActionSpec
from rtjax.evaluation.closed_loop.protocol import Entry
from rtjax.language.instructions import InstructionEncoder
from rtjax.policies.action_filters import Confidence
from rtjax.policies.policy import BatchPolicy, Policy
from rtjax.training import checkpoint as checkpoints

SCRIPTED = ('expert', 'random')


class Decision(NamedTuple):
  """What to do in one environment.

  Attributes:
    action: float32 [A].
    confidence: mean probability of the tokens chosen; None without tokens.
    intervened: whether it was too unsure, and the action is another one.
  """
  action: np.ndarray
  confidence: float | None = None
  intervened: bool = False


class Actor(Protocol):
  """Acts in several environments, each a slot. `identity` tells it from every other one, as JSON."""
  name: str
  identity: dict[str, Any]

  def reset(self, slot: int, entry: Entry, instruction: str) -> None:
    """An episode starts in a slot."""

  def act(self, slots: Sequence[int], observations: Mapping[str, Any], arena: Any) -> list[Decision]:
    """What to do in `slots`; observations are theirs, with a leading axis, `arena` is the vector environment."""

  def latency(self) -> float | None:
    """Seconds that the last call took, or None where it is not to be counted, since something was compiled."""


class PolicyActor:
  """A policy, one call for all environments.

  Args:
    policy: of one robot, from `rtjax.load_policy`.
    environments: how many slots.
    told: in place of every instruction, for a policy that is to ignore them.
    threshold: below this mean confidence the robot is held, and an intervention counted; 0 = never.
  """

  def __init__(self, name: str, identity: dict[str, Any], policy: Policy, environments: int, *, told: str | None = None,
               threshold: float = 0.0, encoder: InstructionEncoder | None = None):
    self.name, self.identity, self._told = name, identity, told
    self._policy = BatchPolicy(
        policy.model, environments, policy.embedding_id, policy.image_size, encoder or policy.encoder, policy.views)
    spec = policy.config.action_spec
    self._doubts = [Confidence(spec, threshold) for _ in range(environments)] if threshold else []
    self.spec = spec
    self._compiled: set[int] = set()
    self._seconds: float | None = None

  def reset(self, slot: int, entry: Entry, instruction: str) -> None:
    self._policy.reset(slot, self._told or instruction)
    if self._doubts:
      self._doubts[slot].reset()

  def act(self, slots: Sequence[int], observations: Mapping[str, Any], arena: Any) -> list[Decision]:
    states = observations['proprioception'] if self._policy.config.proprioception_size else None
    pictures = images(self._policy.views, self._policy.config.views, observations)
    start = time.perf_counter()
    outputs = self._policy.step(pictures, slots, states)
    seconds = time.perf_counter() - start
    size = (len(slots) - 1).bit_length()  # of the calls that BatchPolicy compiles
    self._seconds = seconds if size in self._compiled else None
    self._compiled.add(size)
    return [self._decision(slot, output) for slot, output in zip(slots, outputs, strict=True)]

  def latency(self) -> float | None:
    return self._seconds

  def _decision(self, slot: int, output: Any) -> Decision:
    confidence = float(np.mean(output.confidence))
    if not np.isfinite(confidence):  # the network gives NaN: no action, which the environment counts as a failure
      return Decision(np.full(self.spec.size, np.nan, np.float32))
    instead = self._doubts[slot].instead(output) if self._doubts else None
    if instead is None:
      return Decision(output.plan[0], confidence)
    return Decision(self.spec.pack(instead).astype(np.float32), confidence, True)


class Expert:
  """The environment's scripted expert, which sees its state."""
  name = 'expert'

  def __init__(self) -> None:
    self.identity: dict[str, Any] = {'kind': 'expert'}

  def reset(self, slot: int, entry: Entry, instruction: str) -> None:
    pass

  def act(self, slots: Sequence[int], observations: Mapping[str, Any], arena: Any) -> list[Decision]:
    actions = arena.call('expert')
    return [Decision(np.asarray(actions[slot], np.float32)) for slot in slots]

  def latency(self) -> float | None:
    return None


class Random:
  """Actions drawn evenly within the bounds; an episode's seed decides them."""
  name = 'random'

  def __init__(self) -> None:
    self.identity: dict[str, Any] = {'kind': 'random'}
    self._draws: dict[int, np.random.Generator] = {}

  def reset(self, slot: int, entry: Entry, instruction: str) -> None:
    self._draws[slot] = np.random.default_rng(entry.seed)

  def act(self, slots: Sequence[int], observations: Mapping[str, Any], arena: Any) -> list[Decision]:
    space = arena.single_action_space
    return [Decision(self._draws[slot].uniform(space.low, space.high).astype(np.float32)) for slot in slots]

  def latency(self) -> float | None:
    return None


def images(names: Sequence[str], views: int, observations: Mapping[str, Any]) -> np.ndarray:
  """The pictures that a network of these cameras looks at: uint8 [n, H, W, 3] or [n, V, H, W, 3].

  Raises:
    ValueError: the environment has no such cameras.
  """
  if views <= 1 and (not names or names[0] == 'image'):
    return observations['image']
  found = [observations[n] for name in names for n in (name, f'{name}_image') if n in observations]
  if names and len(found) == len(names):
    return found[0] if views <= 1 else np.stack(found, 1)
  raise ValueError(f'the policy looks through {views} cameras, {list(names) or "unnamed"}; the environment has '
                   f'{sorted(name for name in observations if "image" in name)}. '
                   'The tabletop has the wrist with --wrist and all six with --multiview.')


def load(checkpoint: str, environments: int, threshold: float, encoder: InstructionEncoder | None) -> PolicyActor:
  """The policy in a checkpoint, as `rtjax.load_policy` reads it."""
  policy = rtjax.load_policy(checkpoint)
  identity = {'kind': 'policy', 'weights': digest(policy), 'threshold': threshold, **training(checkpoint)}
  return PolicyActor(checkpoint, identity, policy, environments, threshold=threshold, encoder=encoder)


def baseline(kind: str, checkpoint: str, environments: int, encoder: InstructionEncoder | None, told: str
             ) -> PolicyActor:
  """'untrained': the network with its initial weights; 'blind': the policy, told the same in every episode."""
  policy = rtjax.load_policy(checkpoint)
  if kind == 'untrained':
    policy = Policy(models.build(policy.config, rngs=nnx.Rngs(0)), policy.embedding_id, policy.image_size,
                    policy.encoder, policy.views)
  always = told if kind == 'blind' else None
  identity = {'kind': kind, 'weights': digest(policy), 'told': always}
  return PolicyActor(kind, identity, policy, environments, told=always, encoder=encoder)


def digest(policy: Policy) -> str:
  """A fingerprint of all weights."""
  found = hashlib.sha256()
  for leaf in jax.tree.leaves(nnx.state(policy.model, nnx.Param)):
    found.update(np.asarray(leaf).tobytes())
  return found.hexdigest()[:16]


def training(checkpoint: str) -> dict[str, Any]:
  """'step' of training and 'demonstrations', the episodes it had; None where the checkpoint does not tell."""
  if not checkpoints.is_checkpoint(checkpoint):
    return {'step': None, 'demonstrations': None}
  metadata = checkpoints.read_metadata(checkpoint)
  counts = [found.get('episodes') for found in metadata.get('statistics', {}).values()]
  known = counts and all(count is not None for count in counts)
  return {'step': metadata['step'], 'demonstrations': sum(counts) if known else None}


def require_fit(policy: ActionSpec, env: ActionSpec, name: str) -> None:
  """Raises ValueError unless a policy's actions are such as the environment takes; bounds may differ."""
  def fields(spec: ActionSpec) -> list[tuple[str, int, str, str]]:
    return [(f.name, f.size, f.kind, f.unit) for f in spec.fields]

  if fields(policy) != fields(env):
    raise ValueError(f'the checkpoint acts with {_words(policy)}, the environment {name!r} takes {_words(env)}. Choose '
                     "a checkpoint that was trained with the environment's ActionSpec.")


def _words(spec: ActionSpec) -> str:
  return ', '.join(f'{f.name} [{f.size}]{f" {f.unit}" if f.unit else ""}' for f in spec.fields)
