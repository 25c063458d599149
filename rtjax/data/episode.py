"""Episodes of a dataset, and the interface of their readers.

Every step of an episode is kept as recorded, including the last one. RLDS says that the last action may be a dummy; the
datasets of the Open X-Embodiment mixture record a true action there, or the one that ends the episode, and RT-1 trains
on it. Logs whose last action is a dummy should be converted without that step.
"""
import abc
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rtjax.actions import ActionSpec
from rtjax.data.numbers import LEAST_FAR, far_numbers, far_rule
from rtjax.data.records import RecordSource
from rtjax.data.rlds.adapter import Adapter, LimitedAction
from rtjax.runtime.numbers import unusable

PARAPHRASES = ('paraphrases', 'paraphrase_embeddings')
"""Names of the optional episode metadata: texts [P] and embeddings [P, E] of instructions for the same task."""
# Encoders give numbers of about 1.
_FAR_VECTOR = 100.0


@dataclasses.dataclass(frozen=True)
class Episode:
  """One recorded episode.

  Attributes:
    number: its place in the split, in the dataset's order.
    images: images as stored, for the `decoder` of the dataset; empty if not read.
    embeddings: float32 [steps, E], of the instruction; E is 0 if not read.
    actions: float32 [steps, A] in the ActionSpec's units.
    instructions: str [steps] (object), in normal form; empty where there is none.
    proprioception: float32 [steps, S], or None.
    limited: bool [steps, A], numbers that the adapter clipped.
    waypoints: float32 [steps, 2 or 3] where the dataset records them, or None.
    paraphrases: texts [P] (object) and embeddings [P, E] of several instructions for the task, or None.
  """
  number: int
  images: Any
  embeddings: np.ndarray
  actions: np.ndarray
  instructions: np.ndarray
  proprioception: np.ndarray | None
  limited: np.ndarray
  waypoints: np.ndarray | None = None
  paraphrases: tuple[np.ndarray, np.ndarray] | None = None

  def __len__(self) -> int:
    return len(self.actions)

  @property
  def labelled(self) -> np.ndarray:
    """Steps with an instruction, and no vector of zeros, bool [steps]."""
    has_text = self.instructions != ''
    return has_text & self.embeddings.any(1) if self.embeddings.shape[1] else has_text

  def with_instruction(self, number: int) -> 'Episode':
    """Return the episode with one of its paraphrases in every step."""
    assert self.paraphrases is not None
    words, embedding = (part[number] for part in self.paraphrases)
    return dataclasses.replace(self, instructions=np.full(len(self), words, object),
                               embeddings=np.broadcast_to(embedding, self.embeddings.shape))


def numbers_of(episodes: Sequence[Episode]) -> dict[str, dict[int, np.ndarray]]:
  """Return the numbers that may be far from all others.

  Returns:
    {field: {number of the episode: float32 [steps, n]}} with the fields action, proprioception where it is read, and
    vector: the largest number of the instruction vector.
  """
  found = {'action': {e.number: e.actions for e in episodes},
           'proprioception': {e.number: e.proprioception for e in episodes if e.proprioception is not None},
           'vector': {e.number: np.abs(e.embeddings).max(1, keepdims=True, initial=0) for e in episodes}}
  return {field: numbers for field, numbers in found.items() if numbers}


EpisodeDecoder = Callable[[Episode, Sequence[int], int], Iterator[np.ndarray]]
"""From an episode, its steps to decode (ascending) and the place of a view to an image of each, uint8 [H, W, 3].

The iterator raises ValueError at an image that cannot be decoded. Threads may share the function."""


class EpisodeSource(RecordSource[Episode]):
  """Episodes of one split of a dataset, read by its adapter.

  Attributes:
    adapter: names its features.
    views: cameras that are read, by the adapter's names; empty: the main one.
    rt1_x_grippers: whether the actions are those of RT-1-X's notebook.
    image_sizes: (height, width) of each camera that is read; None where it varies.
    proprioception: name of the robot state that is read; None if it is not.
    proprioception_size: S; 0 if not read.
    embedding_id: id of the vectors' encoder; empty if they are not read.
    embedding_size: E; 0 if not read.
    renderer: of a simulated dataset, from its metadata; None for others.
    skills: of the demonstrations, from the metadata of a dataset that rtjax generated; empty where they are unknown.
  """
  record_name = 'episode'
  adapter: Adapter
  views: tuple[str, ...]
  rt1_x_grippers: bool
  image_sizes: list[tuple[int, int] | None]
  proprioception: str | None
  proprioception_size: int
  embedding_id: str
  embedding_size: int
  renderer: str | None
  skills: tuple[str, ...] = ()

  def __init__(self, action_spec: ActionSpec, check: bool, drop_unlabelled: bool):
    self._spec, self._check, self._drop_unlabelled = action_spec, check, drop_unlabelled

  @property
  @abc.abstractmethod
  def version(self) -> str:
    """Version of the dataset, or of its layout."""

  @property
  @abc.abstractmethod
  def cameras(self) -> list[str]:
    """Names of the cameras that the dataset has, main one first."""

  @property
  @abc.abstractmethod
  def layout(self) -> dict[str, str]:
    """Type and shape of each step feature."""

  @property
  @abc.abstractmethod
  def split_sizes(self) -> dict[str, int]:
    """Episodes of each split of the dataset."""

  @property
  @abc.abstractmethod
  def files(self) -> list[str]:
    """Paths of all files that hold numbers and texts of the split."""

  @property
  @abc.abstractmethod
  def stores_vectors(self) -> bool:
    """Whether the dataset has the instruction vectors that its adapter names."""

  @abc.abstractmethod
  def digest(self) -> str:
    """Hash of the contents of the split's records, wherever they lie."""

  @abc.abstractmethod
  def decoder(self, size: tuple[int, int] | None) -> EpisodeDecoder:
    """Return the decoder of the images, resized to (height, width) with padding."""

  @abc.abstractmethod
  def action_fields(self) -> dict[str, int]:
    """Return the sizes of the action fields in the first episode."""

  @abc.abstractmethod
  def instruction_embeddings(self) -> Iterator[tuple[str, np.ndarray]]:
    """Yield instruction as stored (empty without a word) and embedding, float32 [E], of each step."""

  @property
  def image_size(self) -> list[int] | None:
    """[height, width] of the first camera's images; None where they vary."""
    return list(self.image_sizes[0]) if self.image_sizes[0] else None

  def at_epoch(self, episode: Episode, key: Sequence[int]) -> Episode:
    """Return the episode with a paraphrase, drawn by `key` and its number."""
    if episode.paraphrases is None:
      return episode
    draw = np.random.default_rng([*key, episode.number]).integers(len(episode.paraphrases[0]))
    return episode.with_instruction(int(draw))

  def empty_error(self) -> ValueError:
    lacking = 'has a step and an instruction' if self._drop_unlabelled else 'has a step'
    return ValueError(f'{self.name}: no episode of split {self.split!r} {lacking}. Was it converted completely?')

  def unusable_numbers(self, episode: Episode) -> list[str]:
    """Describe the first NaN, infinite or absurd number of each field."""
    paraphrases = None if episode.paraphrases is None else episode.paraphrases[1]
    fields = (('action', episode.actions, self._spec.dimension_names),
              (self.proprioception, episode.proprioception, ()),
              (self.adapter.embedding or 'instruction vector', episode.embeddings, ()),
              (f'episode_metadata/{PARAPHRASES[1]}', paraphrases, ()))
    return [f'{self._place(episode.number)}, {found}' for field, values, names in fields if values is not None
            for found in _first_unusable(str(field), values, names)]

  def far_numbers(self, episodes: Sequence[Episode]) -> list[str]:
    """Describe numbers that are absurdly far from those of the other steps."""
    rules = self.far_rules()
    return [text for field, numbers in numbers_of(episodes).items() for text in far_numbers(numbers, *rules[field])]

  def far_rules(self) -> dict[str, tuple[list[str], Any]]:
    """Return `names` and `least` of `numbers.far_numbers` for each field of `numbers_of`."""
    return {'action': far_rule(self._spec),
            'proprioception': ([f'{self.proprioception}[{i}]' for i in range(self.proprioception_size)], LEAST_FAR),
            'vector': (['the largest number of an instruction vector'], _FAR_VECTOR)}

  def _kept(self, episode: Episode) -> bool:
    """Return whether an episode is read, after a check of its numbers."""
    if self._check and (found := self.unusable_numbers(episode)):
      raise ValueError(f'{found[0]}' + (f' (and {len(found) - 1} other fields)' if found[1:] else '')
                       + '. Expected finite numbers of sensible size. Fix or remove the episode.')
    return not self._drop_unlabelled or bool(episode.labelled.any())

  def _pack(self, number: int, steps: Any, action: Callable[[Any], dict[str, np.ndarray]],
            length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return actions [steps, A], and which of their numbers the adapter limited."""
    place, adapter = self._place(number), f'the adapter {self.adapter.name!r}'
    try:
      fields = action(steps)
    except (KeyError, ValueError) as error:
      raise ValueError(f'{place}: {adapter} cannot read the actions: {error}. The steps have {sorted(self.layout)}.'
                       ) from error
    missing = set(self._spec.names) - set(fields)
    if missing:
      raise ValueError(f'{place}: {adapter} gives no {sorted(missing)}, which the ActionSpec has; it gives '
                       f'{sorted(fields)}. Choose another ActionSpec, or add the fields to the adapter.')
    actions = self._spec.pack({name: fields[name] for name in self._spec.names})
    if actions.shape != (length, self._spec.size):
      raise ValueError(f'{place}: {adapter} gives actions of shape {actions.shape}, expected '
                       f'{(length, self._spec.size)}, one per step.')
    limited = dict.fromkeys(self._spec.names, False) | (fields.limited if isinstance(fields, LimitedAction) else {})
    parts = [np.broadcast_to(limited[f.name], (length, f.size)) for f in self._spec.fields]
    return actions, np.concatenate(parts, 1)

  def _place(self, number: int) -> str:
    return f'{self.name}, episode {number} of {self.split!r}'


def _first_unusable(field: str, values: np.ndarray, names: Sequence[str]) -> Iterator[str]:
  """Yield a description of the first unusable number of a field."""
  bad = np.argwhere(unusable(values))
  if len(bad):
    step, number = bad[0]
    more = f' (and {len(bad) - 1} other numbers)' if len(bad) > 1 else ''
    yield f'step {step}: {field} {names[number] if names else number} is {values[step, number]:g}{more}'
