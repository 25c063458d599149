"""Replays recorded episodes through a policy: it sees each frame in turn, and what it would have done is noted.

The robot's past is the recorded one at every step, so this measures how well single actions are predicted, not whether
the policy would reach the goal.
"""
import dataclasses
import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from rtjax.actions import ActionSpec
from rtjax.data.images import Decoder, decoder
from rtjax.data.rlds.episodes import Dataset, Episode
from rtjax.data.tf import tf
from rtjax.evaluation.html.frames import FILMSTRIP, evenly_spaced, jpeg, thumbnail
from rtjax.language.instructions import Prompts
from rtjax.policies.policy import Policy


@dataclasses.dataclass(frozen=True)
class Replay:
  """One episode of L steps: what was recorded, and what the policy predicted.

  Attributes:
    number: the episode's number in its split.
    instruction: the first step's.
    recorded, predicted: float32 [L, A], actions in the ActionSpec's units.
    recorded_tokens, predicted_tokens: int32 [L, K].
    confidence: float32 [L, K], the policy's probability of the token that it chose.
    seconds: float64 [L], time that the policy took.
    frames: evenly spaced (step, JPEG) pairs, at most FILMSTRIP.
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
  def right(self) -> np.ndarray:
    """bool [L, K]: which tokens were predicted as recorded."""
    return self.recorded_tokens == self.predicted_tokens


def open_dataset(policy: Policy, name: str, split: str) -> Dataset:
  """The episodes of `split`, if this policy can be judged on them.

  Raises:
    FileNotFoundError: there is no such dataset.
    ValueError: the split is unknown or empty, or the instructions were embedded by another encoder than the policy's.
  """
  dataset = Dataset(name, split, policy.config.action_spec, views=policy.views,
                    proprioception=policy.config.proprioception_size > 0)
  theirs = dataset.adapter.embedding_id
  if not isinstance(policy.encoder, Prompts) and policy.embedding_id and policy.embedding_id != theirs:
    raise ValueError(f'the policy was trained on instruction embeddings of {policy.embedding_id!r}, the dataset {name} '
                     f'holds those of {theirs!r}, which mean nothing to it. Choose a dataset embedded as it needs.')
  return dataset


def embeddings(policy: Policy, episode: Episode) -> np.ndarray:
  """What the policy takes of each step's instruction, float32 [L, E]: those recorded, or its own prompts."""
  if not isinstance(policy.encoder, Prompts):
    return episode.embeddings
  return policy.encoder([str(instruction) for instruction in episode.instructions])


def replay_all(policy: Policy, dataset: Dataset, episodes: int) -> Iterator[Replay]:
  """Replays the first `episodes` of a dataset, in its order; episodes without a step are left out.

  Raises:
    ValueError: an episode cannot be read or decoded, or does not fit the policy.
  """
  decode = decoder(dataset.image_feature, None)
  compiled = set()
  for episode in itertools.islice(dataset.read(dataset.chunks(dataset.num_episodes)), episodes):
    if not len(episode):
      continue
    images = _decode_all(dataset, episode, decode)
    if images[0].shape not in compiled:  # The first step with pictures of a size compiles, which is not to be timed.
      policy.reset(embedding=embeddings(policy, episode)[0])
      policy.step(images[0], _state(episode, 0))
      compiled.add(images[0].shape)
    yield replay(policy, episode, images)


def replay(policy: Policy, episode: Episode, images: list[np.ndarray]) -> Replay:
  """Replays one episode; `images` are its L frames, uint8 [H, W, 3], or [V, H, W, 3] of several views."""
  spec: Any = policy.config.action_spec  # NumPy in, NumPy out
  outputs, seconds, told = [], [], embeddings(policy, episode)
  policy.reset(embedding=told[0])
  for step, (image, embedding) in enumerate(zip(images, told, strict=True)):
    policy.set_instruction(embedding=embedding)
    start = time.perf_counter()
    outputs.append(policy.step(image, _state(episode, step)))
    seconds.append(time.perf_counter() - start)
  shown = evenly_spaced(len(images), FILMSTRIP)
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


def token_numbers(spec: ActionSpec) -> list[int | None]:
  """For each of K tokens, which of the A numbers it stands for; None for a token that stands for a class."""
  numbers: list[int | None] = []
  at = 0
  for field in spec.fields:
    numbers += [None] if field.kind == 'classes' else range(at, at + field.size)
    at += field.size
  return numbers


def _decode_all(dataset: Dataset, episode: Episode, decode: Decoder) -> list[np.ndarray]:
  def pictures(step: int) -> np.ndarray:
    views = [decode(episode.image(step, view)) for view in range(max(1, len(dataset.views)))]
    return np.stack(views) if len(views) > 1 else views[0]

  try:
    return [pictures(step) for step in range(len(episode))]
  except tf.errors.OpError as error:
    where = f'{dataset.name}, episode {episode.number}'
    raise ValueError(f'{where}: an image cannot be decoded: {error.message}') from error


def _state(episode: Episode, step: int) -> np.ndarray | None:
  return None if episode.proprioception is None else episode.proprioception[step]
