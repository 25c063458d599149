"""Agents of a closed-loop evaluation: policies, baselines, the scripted expert, random actions."""
import dataclasses
import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium
import jax
import numpy as np
from flax import nnx

import rtjax
from rtjax import models
from rtjax.actions import ActionSpec
from rtjax.evaluation.closed_loop.protocol import EpisodeId
from rtjax.language.instructions import InstructionEncoder
from rtjax.models import Dtype, PolicyConfig
from rtjax.policies import image_size
from rtjax.policies.action_filters import ConfidenceGate
from rtjax.policies.policy import BatchPolicy, NonFiniteOutput, Policy, PolicyOutput

SCRIPTED = ('expert', 'random')
_CAMERA = (96, 96)  # of agents without a policy, small to be fast


class Decision(NamedTuple):
  """Action for one environment.

  Attributes:
    action: float32 [A].
    confidence: mean probability of the chosen tokens; None for agents without tokens.
    intervened: whether the confidence was below the threshold, so that the action holds the robot.
  """
  action: np.ndarray
  confidence: float | None = None
  intervened: bool = False


class Agent(Protocol):
  """Controller of several environments, each in a slot.

  Attributes:
    name: shown in the report.
    identity: JSON-able description that differs between agents which act differently.
  """
  name: str
  identity: dict[str, Any]

  def reset(self, slot: int, episode: EpisodeId, instruction: str) -> None:
    """Start an episode in a slot."""

  def act(self, slots: Sequence[int], observations: Mapping[str, Any], vector: gymnasium.vector.AsyncVectorEnv
          ) -> list[Decision]:
    """Choose an action for each of `slots`.

    Args:
      observations: of these slots, with a leading axis.
      vector: all environments.
    """

  def latency(self) -> float | None:
    """Return the seconds of the last call, None if it compiled."""


@dataclasses.dataclass(frozen=True)
class AgentSettings:
  """Settings of all policies of an evaluation.

  Attributes:
    num_environments: environments that run in parallel.
    threshold: mean confidence below which the robot is held for the step; 0 = never.
    encoder: instruction encoder; None = the built-in one.
    verify: compare the checksums of checkpoints.
    execute: actions of a plan to take before the policy is called again.
    dtype: type of the computation; None = that of each checkpoint.
  """
  num_environments: int
  threshold: float = 0.0
  encoder: InstructionEncoder | None = None
  verify: bool = True
  execute: int = 1
  dtype: Dtype | None = None

  def identity(self) -> dict[str, Any]:
    """Return the settings that change actions, where they are set."""
    return ({'execute': self.execute} if self.execute > 1 else {}) | ({'dtype': self.dtype} if self.dtype else {})


class PolicyAgent:
  """Policy that acts in all environments with one call.

  Args:
    name: shown in the report.
    identity: see `Agent`.
    policy: a policy of one robot, from `rtjax.load_policy`.
    settings: of the evaluation.
    instruction: replaces the instructions of all episodes, for the blind baseline.

  Raises:
    ValueError: the policy does not plan as many actions as are to be executed, or it reads several frames, which must
      be consecutive.
  """

  def __init__(self, name: str, identity: dict[str, Any], policy: Policy, settings: AgentSettings, *,
               instruction: str = ''):
    self.name, self.identity, self.policy = name, identity, policy
    self.action_spec = policy.config.action_spec
    self._instruction, self._execute = instruction, settings.execute
    _check_plans(policy.config, settings.execute)
    self._plans: dict[int, list[Decision]] = {}
    self._batch = BatchPolicy(policy.model, settings.num_environments, policy.metadata,
                              settings.encoder or policy.encoder)
    self._filters = [ConfidenceGate(self.action_spec, settings.threshold) for _ in range(settings.num_environments)
                     ] if settings.threshold else []
    self._compiled: set[int] = set()
    self._seconds: float | None = None

  def reset(self, slot: int, episode: EpisodeId, instruction: str) -> None:
    self._batch.reset(slot, self._instruction or instruction)
    self._plans.pop(slot, None)
    if self._filters:
      self._filters[slot].reset()

  def act(self, slots: Sequence[int], observations: Mapping[str, Any], vector: gymnasium.vector.AsyncVectorEnv
          ) -> list[Decision]:
    due = [row for row, slot in enumerate(slots) if not self._plans.get(slot)]
    if due:
      self._plan([slots[row] for row in due], {name: array[due] for name, array in observations.items()})
    else:
      self._seconds = None
    return [self._plans[slot].pop(0) for slot in slots]

  def _plan(self, slots: Sequence[int], observations: Mapping[str, Any]) -> None:
    """Call the policy for these slots, and keep the actions to execute."""
    config = self._batch.config
    states = observations['proprioception'] if config.proprioception_size else None
    images = select_images(self._batch.metadata.views, config.views, observations)
    start = time.perf_counter()
    outputs = self._outputs(images, slots, states)
    seconds = time.perf_counter() - start
    size = (len(slots) - 1).bit_length()  # BatchPolicy compiles once per power of two
    self._seconds = seconds if size in self._compiled else None
    self._compiled.add(size)
    for slot, output in zip(slots, outputs, strict=True):
      self._plans[slot] = self._decide(slot, output)

  def latency(self) -> float | None:
    return self._seconds

  def announcement(self, image_size: tuple[int, int]) -> str:
    """Return the line to print before the first step; see `compiler.announcement`."""
    return self._batch.announcement(image_size, programs=self._batch.robots.bit_length())

  def _outputs(self, images: np.ndarray, slots: Sequence[int], states: np.ndarray | None
               ) -> Sequence[PolicyOutput | None]:
    try:
      return self._batch.step(images, slots, states)
    except NonFiniteOutput as error:
      return error.outputs

  def _decide(self, slot: int, output: PolicyOutput | None) -> list[Decision]:
    if output is None:  # the environment rejects the action, and the episode fails
      return [Decision(np.full(self.action_spec.size, np.nan, np.float32))]
    confidence = float(np.mean(output.confidence))
    replacement = self._filters[slot].replacement(output) if self._filters else None
    if replacement is None:
      return [Decision(action, confidence) for action in output.plan[:self._execute]]
    return [Decision(self.action_spec.pack(replacement).astype(np.float32), confidence, True)]


class ExpertAgent:
  """Scripted expert of the environment, which reads the state of the simulation."""
  name = 'expert'

  def __init__(self) -> None:
    self.identity: dict[str, Any] = {'kind': 'expert'}

  def reset(self, slot: int, episode: EpisodeId, instruction: str) -> None:
    pass

  def act(self, slots: Sequence[int], observations: Mapping[str, Any], vector: gymnasium.vector.AsyncVectorEnv
          ) -> list[Decision]:
    actions = vector.call('expert')
    return [Decision(np.asarray(actions[slot], np.float32)) for slot in slots]

  def latency(self) -> float | None:
    return None


class RandomAgent:
  """Uniformly random actions within the bounds, determined by the episode's seed."""
  name = 'random'

  def __init__(self) -> None:
    self.identity: dict[str, Any] = {'kind': 'random'}
    self._generators: dict[int, np.random.Generator] = {}

  def reset(self, slot: int, episode: EpisodeId, instruction: str) -> None:
    self._generators[slot] = np.random.default_rng(episode.seed)

  def act(self, slots: Sequence[int], observations: Mapping[str, Any], vector: gymnasium.vector.AsyncVectorEnv
          ) -> list[Decision]:
    space: Any = vector.single_action_space
    return [Decision(self._generators[slot].uniform(space.low, space.high).astype(np.float32)) for slot in slots]

  def latency(self) -> float | None:
    return None


def load(name: str, settings: AgentSettings) -> Agent:
  """Load one of SCRIPTED, or the policy in a checkpoint."""
  if name == 'expert':
    return ExpertAgent()
  if name == 'random':
    return RandomAgent()
  policy = rtjax.load_policy(name, verify=settings.verify, dtype=settings.dtype)
  identity = {'kind': 'policy', 'weights': weights_digest(policy), 'threshold': settings.threshold,
              **training_progress(policy), **settings.identity()}
  return PolicyAgent(name, identity, policy, settings)


def baseline(kind: str, policy: Policy, settings: AgentSettings, instruction: str) -> PolicyAgent:
  """Create a baseline of a policy.

  Args:
    kind: 'untrained', the same network with its initial weights; 'blind', the policy with the same instruction in
      every episode.
    policy: the trained one.
    settings: of the evaluation; the threshold does not apply.
    instruction: for the blind baseline.
  """
  if kind == 'untrained':
    model = models.build(policy.config, seed=0)
    if policy.model.tokenizer is not None:
      model.set_tokenizer(policy.model.tokenizer)
    policy = Policy(model, policy.metadata, policy.encoder)
  fixed = instruction if kind == 'blind' else ''
  identity = {'kind': kind, 'weights': weights_digest(policy), 'instruction': fixed or None, **settings.identity()}
  return PolicyAgent(kind, identity, policy, dataclasses.replace(settings, threshold=0.0), instruction=fixed)


def _check_plans(config: PolicyConfig, execute: int) -> None:
  if execute > config.horizon:
    raise ValueError(f'--execute is {execute}, the policy plans {config.horizon} actions: give at most that many, or '
                     'train with a longer --model.horizon.')
  if execute > 1 and config.window > 1:
    raise ValueError(f'--execute is {execute}, and the policy reads {config.window} consecutive frames, of which it '
                     'would miss some: give 1, or train with --model.window 1.')


def select_images(names: Sequence[str], views: int, observations: Mapping[str, Any]) -> np.ndarray:
  """Select the cameras of a model from the observations.

  Args:
    names: cameras of the model; empty for the main one.
    views: their number.
    observations: of the environment: `image`, and one entry per further camera, such as `wrist_image`.

  Returns:
    uint8 [n, H, W, 3], or [n, views, H, W, 3] for several cameras.

  Raises:
    ValueError: the environment has no such cameras.
  """
  if views <= 1 and (not names or names[0] == 'image'):
    return observations['image']
  selected = [observations[key] for name in names for key in (name, f'{name}_image') if key in observations]
  if names and len(selected) == len(names):
    return selected[0] if views <= 1 else np.stack(selected, 1)
  raise ValueError(f'the policy was trained on {views} cameras, {list(names) or "unnamed"}; the environment has '
                   f'{sorted(name for name in observations if "image" in name)}. In the tabletop, --wrist adds the '
                   'wrist camera and --multiview all six.')


def weights_digest(policy: Policy) -> str:
  """Return a hash of all weights."""
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(nnx.state(policy.model, nnx.Param)):
    digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()[:16]


def training_progress(policy: Policy) -> dict[str, Any]:
  """Return the training 'step' and the number of 'demonstrations'; None where unknown."""
  metadata = policy.metadata
  counts = [entry.get('episodes') for entry in metadata.statistics.values()]
  known = counts and all(count is not None for count in counts)
  return {'step': metadata.step, 'demonstrations': sum(counts) if known else None}


def camera_size(agent: Agent) -> tuple[int, int]:
  """Return height and width of the images to render for an agent.

  Raises:
    ValueError: a policy's datasets have different sizes.
  """
  if isinstance(agent, PolicyAgent):
    return image_size.camera_size(agent.policy.config, agent.policy.metadata)
  return _CAMERA


def require_matching_actions(policy: ActionSpec, env: ActionSpec, name: str) -> None:
  """Raise ValueError unless the action fields are equal; bounds may differ."""
  def fields(spec: ActionSpec) -> list[tuple[str, int, str, str]]:
    return [(f.name, f.size, f.kind, f.unit) for f in spec.fields]

  if fields(policy) != fields(env):
    raise ValueError(f'the actions of the checkpoint are {_listed(policy)}, those of the environment {name!r} are '
                     f"{_listed(env)}. Choose a checkpoint that was trained with the environment's ActionSpec.")


def _listed(spec: ActionSpec) -> str:
  return ', '.join(f'{f.name} [{f.size}]{f" {f.unit}" if f.unit else ""}' for f in spec.fields)
