"""Runs an export back, frame by frame beside the policy it was made from, each with its own history."""
import dataclasses
import itertools
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rtjax.export.step import Step
from rtjax.models import RT2Config
from rtjax.models.loss import IMPOSSIBLE
from rtjax.policies.policy import Policy

# Float32 programs may differ by rounding, which other runtimes do in another order: by this much of the largest logit.
_TOLERANCE = 1e-3
_NOISE_EPISODE = 10  # frames, so that windows fill and move on


@dataclasses.dataclass(frozen=True)
class Frames:
  """One episode's pictures uint8 [L, H, W, 3], each with its instruction's embedding, float32 [L, E].

  And the robot's state, float32 [L, P], where the network looks at it.
  """
  images: np.ndarray
  embeddings: np.ndarray
  proprioception: np.ndarray | None = None

  def first(self) -> 'Frames':
    return Frames(*(array[:1] for array in self._arrays()))

  def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
    """Frame by frame: picture, embedding and, if there is one, state."""
    return zip(*self._arrays(), strict=True)

  def _arrays(self) -> list[np.ndarray]:
    state = self.proprioception
    return [self.images, self.embeddings, *([] if state is None else [state])]


# One entry a frame: 'logits' [K*F, V], 'tokens' [K*F] and, of exports, 'action' [F or 1, A]; and the seconds it took.
Steps = list[tuple[dict[str, Any], float]]


@dataclasses.dataclass(frozen=True)
class Comparison:
  """How an export compares with the model.

  Attributes:
    frames: how many were shown to both.
    difference, largest: the largest difference of two logits, and the largest logit.
    equal, tokens: action tokens that agree, of how many.
    unexplained: tokens that differ although the model's choice was clearer than the difference of the logits.
    seconds, model_seconds: median time of a step, here and in rtjax.
  """
  frames: int
  difference: float
  largest: float
  equal: int
  tokens: int
  unexplained: int
  seconds: float
  model_seconds: float

  @property
  def agrees(self) -> bool:
    """Whether it is the same network but for rounding."""
    return self.difference <= _TOLERANCE * max(1.0, self.largest) and not self.unexplained


def reference(policy: Policy, episodes: Sequence[Frames]) -> Steps:
  """What the policy makes of the frames."""
  _policy_steps(policy, episodes[0].first())  # compiles
  return [step for episode in episodes for step in _policy_steps(policy, episode)]


def compare(expected: Steps, run: Callable, step: Step, episodes: Sequence[Frames]) -> Comparison:
  """Shows the same frames to `run`, a (history, *inputs) -> outputs.

  Raises:
    ValueError: an action is not what its tokens stand for.
  """
  _run_steps(run, step, episodes[0].first())  # may compile
  steps = [made for episode in episodes for made in _run_steps(run, step, episode)]
  _check_actions(step, steps)
  now = step.config.action_spec.num_tokens  # a policy tells the logits of the next action, not of those after it
  wanted, found = (np.stack([made['logits'][:now] for made, _ in part]) for part in (expected, steps))
  wanted, found = (np.where(wanted > IMPOSSIBLE / 2, logits, 0) for logits in (wanted, found))
  tokens, chosen = (np.stack([made['tokens'][:now] for made, _ in part]) for part in (expected, steps))
  differences, ranked = np.abs(found - wanted), np.sort(wanted, -1)
  clear = ranked[..., -1] - ranked[..., -2] > 2 * differences.max(-1)
  seconds, model_seconds = (float(np.median([s for _, s in part])) for part in (steps, expected))
  return Comparison(len(steps), float(differences.max()), float(np.abs(wanted).max()), int((tokens == chosen).sum()),
                    tokens.size, int(((tokens != chosen) & clear).sum()), seconds, model_seconds)


def _check_actions(step: Step, steps: Steps) -> None:
  spec, horizon, decoding = step.config.action_spec, step.config.horizon, step.config.decoding
  for made, _ in steps:
    expected = (spec.detokenize(made['tokens'].reshape(horizon, -1)) if decoding == 'argmax' else
                spec.decode(made['logits'].reshape(horizon, -1, spec.vocab_size), decoding))[:len(made['action'])]
    if not np.allclose(made['action'], expected, rtol=1e-5, atol=1e-6):
      raise ValueError(f'the export gives the action {made["action"]} for the tokens {made["tokens"]}, which stand for '
                       f'{expected}.')


def dataset_frames(policy: Policy, name: str, split: str, picture: tuple[int, int], count: int) -> list[Frames]:
  """The first `count` frames of a dataset's episodes, brought to the size of `picture` with the aspect kept."""
  from rtjax.data.images import decoder
  from rtjax.evaluation.replay.replay import embeddings, open_dataset
  dataset = open_dataset(policy, name, split)
  decode = decoder(dataset.image_feature, picture)
  episodes: list[Frames] = []
  for episode in dataset.read(dataset.chunks(dataset.num_episodes)):
    missing = count - sum(len(e.images) for e in episodes)
    if missing <= 0:
      break
    if len(episode):
      images = np.stack([decode(image) for image in itertools.islice(episode.images, missing)])
      state = episode.proprioception
      episodes.append(Frames(images, embeddings(policy, episode)[:len(images)],
                             None if state is None else state[:len(images)]))
  if not episodes:
    raise dataset.no_steps()
  return episodes


def noise_frames(step: Step, count: int) -> list[Frames]:
  """Seeded noise, where there is no dataset: blotches of colour, and embeddings of unit length, or of RT-2 any ids."""
  return list(itertools.islice(_noise(step, count), -(-count // _NOISE_EPISODE)))


def _noise(step: Step, count: int) -> Iterator[Frames]:
  from PIL import Image
  random = np.random.default_rng(0)
  for start in range(0, count, _NOISE_EPISODE):
    length = min(_NOISE_EPISODE, count - start)
    coarse = random.integers(0, 256, (length, 8, 10, 3), dtype=np.uint8)
    images = np.stack([np.asarray(Image.fromarray(c).resize(step.picture[::-1])) for c in coarse])
    embedding = random.normal(size=step.config.embedding_size).astype(np.float32)
    embedding /= np.linalg.norm(embedding)
    if isinstance(step.config, RT2Config):
      embedding = random.integers(0, step.config.text.vocab_size, len(embedding)).astype(np.float32)
    state = random.normal(size=(length, step.config.proprioception_size)).astype(np.float32)
    yield Frames(images, np.repeat(embedding[None], length, 0), state if state.size else None)


def size(folder: pathlib.Path) -> int:
  """Bytes of all files."""
  return sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())


def _policy_steps(policy: Policy, episode: Frames) -> Steps:
  policy.reset(embedding=episode.embeddings[0])
  steps = []
  for image, embedding, *state in episode:
    policy.set_instruction(embedding=embedding)
    start = time.perf_counter()
    output = policy.step(image, *state)
    steps.append(({'logits': output.logits, 'tokens': output.tokens}, time.perf_counter() - start))
  return steps


def _run_steps(run: Callable, step: Step, episode: Frames) -> Steps:
  history, steps = step.history, []
  for frame in episode:
    start = time.perf_counter()
    outputs = run(history, *(array[None] for array in frame))
    logits = np.asarray(outputs['logits'])  # waits until it is there
    seconds = time.perf_counter() - start
    history = outputs['history']
    steps.append(({'logits': logits[0], 'tokens': np.asarray(outputs['tokens'])[0],
                   'action': np.asarray(outputs['action'])[0]}, seconds))
  return steps
