"""Figures of a dataset, and a few of its episodes with images."""
import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rtjax import actions
from rtjax.actions import ActionSpec
from rtjax.data.episode import Episode, EpisodeSource
from rtjax.data.episodes.open import open_dataset
from rtjax.data.episodes.recorded_spec import recorded_spec
from rtjax.data.language import NoVectors
from rtjax.data.numbers import idle_steps, still_steps
from rtjax.runtime.html.frames import FILMSTRIP_FRAMES, evenly_spaced, jpeg, thumbnail

# Findings of one kind that are listed; the rest is counted.
_LISTED = 5


@dataclasses.dataclass(frozen=True)
class ShownEpisode:
  """An episode with images.

  Attributes:
    episode: its numbers and texts.
    frames: {camera: [(step, JPEG), ...]}.
  """
  episode: Episode
  frames: dict[str, list[tuple[int, bytes]]]


@dataclasses.dataclass(frozen=True)
class Summary:
  """Figures of the episodes that were read, N steps in all.

  Attributes:
    dataset: its first episode's reader: name, split, features.
    spec: fields and bounds of the actions.
    cameras: name and stored size (height, width), or None where it varies.
    splits: episodes of each split.
    lengths: int [episodes], steps.
    actions: float32 [N, A].
    state: float32 [N, S], or None.
    instructions: episodes that have each instruction, or have it among several.
    still, idle: int [episodes], steps without motion, and those that do nothing at all.
    findings: unusable numbers, missing instructions, images that cannot be decoded.
    shown: episodes with images.
  """
  dataset: EpisodeSource
  spec: ActionSpec
  cameras: dict[str, tuple[int, int] | None]
  splits: dict[str, int]
  lengths: np.ndarray
  actions: np.ndarray
  state: np.ndarray | None
  instructions: collections.Counter[str]
  still: np.ndarray
  idle: np.ndarray
  findings: list[str]
  shown: list[ShownEpisode]


def summarize(name: str, split: str, action_spec: str, episodes: int, most: int) -> Summary:
  """Read the numbers of many episodes, and the images of few.

  Raises:
    FileNotFoundError, ValueError: the dataset cannot be read.
  """
  spec = actions.get(action_spec) if action_spec else recorded_spec([name]) or _fitting_spec(name, split)
  dataset = _open(name, split, spec, images=False)
  numbers = evenly_spaced(dataset.num_records, most)
  read = list(_read(dataset, numbers))
  if not any(map(len, read)):
    raise dataset.empty_error()
  findings = _findings(dataset, read)
  with_images = _open(name, split, spec, views=dataset.cameras)
  shown = [_shown(with_images, episode, findings)
           for episode in _read(with_images, [numbers[i] for i in evenly_spaced(len(numbers), episodes)])]
  texts = collections.Counter(text for episode in read for text in _instructions(episode))
  state = None if read[0].proprioception is None else np.concatenate([e.proprioception for e in read])
  return Summary(
      dataset=dataset, spec=spec, splits=dataset.split_sizes, lengths=np.array([len(e) for e in read]),
      cameras=dict(zip(with_images.views, with_images.image_sizes, strict=True)),
      actions=np.concatenate([e.actions for e in read]), state=state, instructions=texts,
      still=np.array([still_steps(e.actions, spec).sum() for e in read]),
      idle=np.array([idle_steps(e.actions, spec).sum() for e in read]), findings=findings, shown=shown)


def _open(name: str, split: str, spec: ActionSpec, **options: Any) -> EpisodeSource:
  """Open a dataset, with its instruction vectors if it stores any."""
  options |= {'proprioception': None, 'check': False}
  dataset = open_dataset(name, split, spec, vectors=NoVectors(), **options)
  return open_dataset(name, split, spec, **options) if dataset.stores_vectors else dataset


def _fitting_spec(name: str, split: str) -> ActionSpec:
  """Return the first known ActionSpec whose fields the dataset has."""
  fields = _open(name, split, actions.ARM_7D, images=False).action_fields()
  for spec in (actions.ARM_7D, actions.POSE_7D, actions.METAWORLD, actions.RT1):  # arm7d's come with RT-1's
    if all(fields.get(f.name) == f.size for f in spec.fields):
      return spec
  raise ValueError(f'{name}: its actions have the fields {fields}, which no known ActionSpec has. Give the one that it '
                   'was written with: --action-spec FILE.json.')


def _read(dataset: EpisodeSource, numbers: Sequence[int]) -> Iterator[Episode]:
  wanted = set(numbers)
  return dataset.read([chunk for chunk in dataset.chunks(1) if chunk.first in wanted])


def _instructions(episode: Episode) -> set[str]:
  return set(episode.instructions if episode.paraphrases is None else episode.paraphrases[0])


def _findings(dataset: EpisodeSource, episodes: Sequence[Episode]) -> list[str]:
  unusable = [found for episode in episodes for found in dataset.unusable_numbers(episode)]
  kinds = {
      'have no step': [e.number for e in episodes if not len(e)],
      'have a step without an instruction': [e.number for e in episodes if not all(map(str.strip, e.instructions))],
      'have a step with an embedding of zeros': [
          e.number for e in episodes if e.embeddings.size and not e.embeddings.any(-1).all()]}
  unusable += dataset.far_numbers(episodes)
  found = unusable[:_LISTED] + [f'and {len(unusable) - _LISTED} more fields of episodes'] * (len(unusable) > _LISTED)
  return found + [f'{len(numbers)} episodes {kind}: number {", ".join(map(str, numbers[:_LISTED]))}'
                  + (', ...' if len(numbers) > _LISTED else '') for kind, numbers in kinds.items() if numbers]


def _shown(dataset: EpisodeSource, episode: Episode, findings: list[str]) -> ShownEpisode:
  frames: dict[str, list[tuple[int, bytes]]] = {}
  decode = dataset.decoder(None)
  for view, camera in enumerate(dataset.views):
    frames[camera] = []
    for step in evenly_spaced(len(episode), FILMSTRIP_FRAMES):
      try:
        frames[camera].append((step, jpeg(thumbnail(next(decode(episode, [step], view))))))
      except ValueError as error:
        findings.append(f'{dataset.name}, episode {episode.number}, step {step}: the image of {camera!r} cannot be '
                        f'decoded: {error}')
  return ShownEpisode(episode, frames)
