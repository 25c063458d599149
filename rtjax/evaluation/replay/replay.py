"""Replay of recorded episodes through a policy, frame by frame.

The policy's past frames are the recorded ones at every step. A replay measures how well single actions are predicted,
not whether the policy would reach the goal.
"""
import dataclasses
import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from rtjax.actions import ActionSpec
from rtjax.data.episode import Episode, EpisodeDecoder, EpisodeSource
from rtjax.policies.policy import Policy, PolicyOutput
from rtjax.policies.recorded import encoded_instructions
from rtjax.runtime.html.frames import FILMSTRIP_FRAMES, evenly_spaced, jpeg, thumbnail


@dataclasses.dataclass(frozen=True)
class Replay:
  """Recorded and predicted actions of one episode.

  Attributes:
    number: the episode's number in its split.
    instruction: of the first step.
    recorded, predicted: float32 [steps, A], actions in the ActionSpec's units.
    recorded_tokens, predicted_tokens: int32 [steps, K].
    confidence: float32 [steps, K], the policy's probability of the predicted token.
    seconds: float64 [steps], duration of the policy's step.
    frames: evenly spaced (step, JPEG) pairs, at most FILMSTRIP_FRAMES.
  """
  number: int
  instruction: str
  recorded: np.ndarray
  predicted: np.ndarray
  recorded_tokens: np.ndarray
  predicted_tokens: np.ndarray
  confidence: np.ndarray
  seconds: np.ndarray
  frames: tuple[tuple[int, bytes], ...]

  def __len__(self) -> int:
    return len(self.recorded)

  @property
  def correct(self) -> np.ndarray:
    """Predicted tokens that equal the recorded ones, bool [steps, K]."""
    return self.recorded_tokens == self.predicted_tokens


def replay_dataset(policy: Policy, dataset: EpisodeSource, episodes: int) -> Iterator[Replay]:
  """Replay the first `episodes` of a dataset; skip empty ones.

  Raises:
    ValueError: an episode cannot be read or decoded, or does not fit the policy.
  """
  decode = dataset.decoder(None)
  compiled = set()
  for episode in itertools.islice(dataset.read_all(), episodes):
    if not len(episode):
      continue
    images = _decode_all(dataset, episode, decode)
    if images[0].shape not in compiled:  # the first step with images of a size compiles, and is not timed
      policy.reset(embedding=encoded_instructions(policy, episode)[0])
      policy.step(images[0], _state(episode, 0))
      compiled.add(images[0].shape)
    yield replay_episode(policy, episode, images)


def replay_episode(policy: Policy, episode: Episode, images: list[np.ndarray]) -> Replay:
  """Replay one episode.

  Args:
    images: its frames, each uint8 [H, W, 3], or [views, H, W, 3] for several cameras.
  """
  spec: Any = policy.config.action_spec  # NumPy in, NumPy out
  outputs, seconds, instructions = [], [], encoded_instructions(policy, episode)
  policy.reset(embedding=instructions[0])
  for step, (image, instruction) in enumerate(zip(images, instructions, strict=True)):
    policy.set_instruction(embedding=instruction)
    start = time.perf_counter()
    output = policy.step(image, _state(episode, step))
    seconds.append(time.perf_counter() - start)
    outputs.append(output if policy.config.action_codec is None else _in_bins(output, spec))
  shown = evenly_spaced(len(images), FILMSTRIP_FRAMES)
  return Replay(
      number=episode.number,
      instruction=str(episode.instructions[0]),
      recorded=episode.actions,
      predicted=np.stack([output.plan[0] for output in outputs]),
      recorded_tokens=spec.tokenize(episode.actions),
      predicted_tokens=np.stack([output.tokens for output in outputs]),
      confidence=np.stack([output.confidence for output in outputs]),
      seconds=np.array(seconds),
      frames=tuple((step, jpeg(thumbnail(images[step]))) for step in shown))


def _in_bins(output: PolicyOutput, spec: ActionSpec) -> PolicyOutput:
  """Return an output of codec tokens with its next action in bins.

  Each bin has the mean confidence of the codec's tokens.
  """
  tokens = np.asarray(spec.tokenize(output.plan[0]))
  return output._replace(tokens=tokens, confidence=np.full(len(tokens), output.confidence.mean()))


def token_dimensions(spec: ActionSpec) -> list[int | None]:
  """Return the index of each token's number in an action.

  The K indices are from 0 to A - 1; a class has None.
  """
  indices: list[int | None] = []
  start = 0
  for field in spec.fields:
    indices += [None] if field.kind == 'classes' else range(start, start + field.size)
    start += field.size
  return indices


def _decode_all(dataset: EpisodeSource, episode: Episode, decode: EpisodeDecoder) -> list[np.ndarray]:
  cameras = [decode(episode, range(len(episode)), view) for view in range(max(1, len(dataset.views)))]
  try:
    return [np.stack(views) if len(views) > 1 else views[0] for views in zip(*cameras, strict=True)]
  except ValueError as error:
    raise ValueError(f'{dataset.name}, episode {episode.number}: an image cannot be decoded: {error}') from error


def _state(episode: Episode, step: int) -> np.ndarray | None:
  return None if episode.proprioception is None else episode.proprioception[step]
