"""Comparison of an export with its policy, frame by frame."""
import dataclasses
import itertools
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from rtjax.export.step import Step
from rtjax.models.loss import IMPOSSIBLE
from rtjax.policies.policy import Policy

# Other runtimes add float32 numbers in another order: by rounding, logits may differ by this much of the largest one.
_TOLERANCE = 1e-3
_NOISE_EPISODE = 10  # frames; longer than the windows of the tests' models


@dataclasses.dataclass(frozen=True)
class Frames:
  """Frames of one episode.

  Attributes:
    images: uint8 [steps, H, W, 3].
    instructions: of each frame, float32 [steps, E] or token ids [steps, L].
    proprioception: float32 [steps, S], where the model uses it.
  """
  images: np.ndarray
  instructions: np.ndarray
  proprioception: np.ndarray | None = None

  def first(self) -> 'Frames':
    """Return the first frame alone."""
    return Frames(*(array[:1] for array in self._arrays()))

  def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield image, instruction and, if there is one, state of each frame."""
    return zip(*self._arrays(), strict=True)

  def _arrays(self) -> list[np.ndarray]:
    state = self.proprioception
    return [self.images, self.instructions, *([] if state is None else [state])]


# For each frame: 'logits' [K*F, V], 'tokens' [K*F] and, from exports, 'action' [F or 1, A]; and the time in seconds.
Steps = list[tuple[dict[str, Any], float]]


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Agreement of an export with the model.

  Attributes:
    frames: number of frames compared.
    difference: largest difference of two logits.
    largest_logit: largest absolute logit.
    equal, tokens: number of equal action tokens, and of all.
    unexplained: unequal tokens whose two best logits in the model differ by more than twice `difference`.
    seconds, model_seconds: median time of a step of the export and of the model in rtjax.
  """
  frames: int
  difference: float
  largest_logit: float
  equal: int
  tokens: int
  unexplained: int
  seconds: float
  model_seconds: float

  @property
  def agrees(self) -> bool:
    """Return whether the export computes the same function up to rounding."""
    return self.difference <= _TOLERANCE * max(1.0, self.largest_logit) and not self.unexplained


def reference(policy: Policy, episodes: Sequence[Frames]) -> Steps:
  """Return the policy's outputs."""
  _policy_steps(policy, episodes[0].first())  # compiles
  return [step for episode in episodes for step in _policy_steps(policy, episode)]


def compare(expected: Steps, run: Callable, step: Step, episodes: Sequence[Frames]) -> Comparison:
  """Compare an export with the output of `reference` on the same episodes.

  Args:
    run: the export, (cache, *inputs) -> outputs.

  Raises:
    ValueError: logits of the export are not finite, or an action does not follow from its tokens.
  """
  _export_steps(run, step, episodes[0].first())  # may compile
  found = [output for episode in episodes for output in _export_steps(run, step, episode)]
  _check_actions(step, found)
  # A policy returns the tokens of the next action only.
  logits, export_logits, tokens, export_tokens = (np.concatenate([
      output[name][:len(known['tokens'])] for (output, _), (known, _) in zip(part, expected, strict=True)])
      for name in ('logits', 'tokens') for part in (expected, found))
  logits, export_logits = (np.where(logits > IMPOSSIBLE / 2, part, 0) for part in (logits, export_logits))
  differences, ranked = np.abs(export_logits - logits), np.sort(logits, -1)
  clear = ranked[..., -1] - ranked[..., -2] > 2 * differences.max(-1)
  seconds, model_seconds = (float(np.median([s for _, s in part])) for part in (found, expected))
  return Comparison(
      frames=len(found), difference=float(differences.max()), largest_logit=float(np.abs(logits).max()),
      equal=int((tokens == export_tokens).sum()), tokens=tokens.size,
      unexplained=int(((tokens != export_tokens) & clear).sum()), seconds=seconds, model_seconds=model_seconds)


def _check_actions(step: Step, steps: Steps) -> None:
  config = step.config
  for output, _ in steps:
    if not np.isfinite(output['logits']).all():
      raise ValueError('the export computed NaN or infinite logits for inputs on which the model does not.')
    logits, tokens = output['logits'], output['tokens']
    chosen = np.eye(logits.shape[-1], dtype=np.float32)[tokens] if config.decoding == 'argmax' else logits
    expected = config.decode(chosen)[:len(output['action'])]
    if not np.allclose(output['action'], expected, rtol=1e-5, atol=1e-6):
      raise ValueError(f'the export returned the action {output["action"]} for the tokens {output["tokens"]}, expected '
                       f'{expected}.')


def dataset_frames(policy: Policy, name: str, split: str, size: tuple[int, int], count: int) -> list[Frames]:
  """Return the first `count` frames of a dataset, resized with padding.

  Raises:
    FileNotFoundError, ValueError: as `rtjax.policies.recorded.open_dataset`; or the split has no step.
  """
  from rtjax.policies import recorded
  dataset = recorded.open_dataset(policy, name, split)
  decode = dataset.decoder(size)
  episodes: list[Frames] = []
  for episode in dataset.read_all():
    missing = count - sum(len(e.images) for e in episodes)
    if missing <= 0:
      break
    if len(episode):
      images = np.stack(list(decode(episode, range(min(len(episode), missing)), 0)))
      state = episode.proprioception
      episodes.append(Frames(images, recorded.encoded_instructions(policy, episode)[:len(images)],
                             None if state is None else state[:len(images)]))
  if not episodes:
    raise dataset.empty_error()
  return episodes


def noise_frames(step: Step, count: int) -> list[Frames]:
  """Return seeded noise: patches of colour, random embeddings or token ids."""
  return list(itertools.islice(_noise(step, count), -(-count // _NOISE_EPISODE)))


def _noise(step: Step, count: int) -> Iterator[Frames]:
  random, config = np.random.default_rng(0), step.config
  for start in range(0, count, _NOISE_EPISODE):
    steps = min(_NOISE_EPISODE, count - start)
    coarse = random.integers(0, 256, (steps, 8, 10, 3), dtype=np.uint8)
    images = np.stack([np.asarray(Image.fromarray(c).resize(step.camera_size[::-1])) for c in coarse])
    instruction = random.normal(size=config.instruction_size).astype(np.float32)
    instruction /= np.linalg.norm(instruction)
    if config.reads_prompts:
      instruction = random.integers(0, config.vocab_size, config.instruction_size).astype(config.instruction_dtype)
    state = random.normal(size=(steps, config.proprioception_size)).astype(np.float32)
    yield Frames(images, np.repeat(instruction[None], steps, 0), state if state.size else None)


def folder_size(folder: pathlib.Path) -> int:
  """Return the bytes of all files."""
  return sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())


def _policy_steps(policy: Policy, episode: Frames) -> Steps:
  policy.reset(embedding=episode.instructions[0])
  steps = []
  for image, instruction, *state in episode:
    policy.set_instruction(embedding=instruction)
    start = time.perf_counter()
    output = policy.step(image, *state)
    steps.append(({'logits': output.logits, 'tokens': output.tokens}, time.perf_counter() - start))
  return steps


def _export_steps(run: Callable, step: Step, episode: Frames) -> Steps:
  cache, steps = step.cache, []
  for frame in episode:
    start = time.perf_counter()
    outputs = run(cache, *(array[None] for array in frame))
    logits = np.asarray(outputs['logits'])  # waits for the device
    seconds = time.perf_counter() - start
    cache = outputs['cache']
    steps.append(({'logits': logits[0], 'tokens': np.asarray(outputs['tokens'])[0],
                   'action': np.asarray(outputs['action'])[0]}, seconds))
  return steps
