"""Fabricated replays, policies and datasets for tests of reports."""
import pathlib
import types

import numpy as np

from helpers import rlds_episodes
from rtjax.actions import ActionField, ActionSpec, classes
from rtjax.checkpoints import PolicyMetadata
from rtjax.evaluation.replay.replay import Replay
from rtjax.models import RT1Config
from rtjax.models.backbones.film_efficientnet import B0_STAGES, EfficientNetConfig
from rtjax.policies.policy import PolicyOutput

SPEC = ActionSpec((classes('mode', 3), ActionField('move', 2, -1.0, 1.0, bins=5, unit='m')), vocab_size=8)


def tiny_config(spec: ActionSpec) -> RT1Config:
  """Return the configuration of a model that compiles in seconds."""
  return RT1Config(
      action_spec=spec, window=3, image_size=(32, 32), image_tokens=2, token_width=16, width=16, layers=1, heads=2,
      head_size=8, encoder=EfficientNetConfig(width=0.2, depth=0.2, stages=B0_STAGES[:3]))


def replay(recorded_tokens, predicted_tokens, confidence=0.5, number=0, instruction='pick', shift=0.0) -> Replay:
  """Return a replay with these tokens of SPEC.

  `shift` is added to the recorded numbers.
  """
  recorded_tokens, predicted_tokens = np.int32(recorded_tokens), np.int32(predicted_tokens)
  recorded = SPEC.detokenize(recorded_tokens)
  recorded[:, 3:] += shift
  return Replay(
      number=number, instruction=instruction, recorded=recorded, predicted=SPEC.detokenize(predicted_tokens),
      recorded_tokens=recorded_tokens, predicted_tokens=predicted_tokens,
      confidence=np.broadcast_to(np.float32(confidence), recorded_tokens.shape), seconds=np.full(len(recorded), 0.004),
      frames=((0, b'\xff\xd8image'),))


class FakePolicy:
  """Policy that returns given tokens and keeps its inputs."""

  def __init__(self, spec: ActionSpec, tokens: np.ndarray, embedding_id: str = '', views: tuple[str, ...] = (),
               proprioception_size: int = 0):
    self.config = types.SimpleNamespace(
        action_spec=spec, proprioception_size=proprioception_size, reads_prompts=False, action_codec=None)
    self.metadata, self.encoder = PolicyMetadata(embedding_id=embedding_id, views=views), None
    self._spec, self._tokens = spec, tokens

  def announcement(self, image_size):
    return f'images of {image_size}'

  def reset(self, *, embedding):
    self.images, self.embeddings, self.states = [], [], []
    self.set_instruction(embedding=embedding)

  def set_instruction(self, *, embedding):
    self._embedding = embedding

  def step(self, image, proprioception=None):
    tokens = self._tokens[len(self.images)]
    self.states.append(proprioception)
    self.images.append(image)
    self.embeddings.append(self._embedding)
    plan = self._spec.detokenize(tokens)[None]
    confidence = np.full(len(tokens), 0.25, np.float32)
    return PolicyOutput(self._spec.unpack(plan[0]), tokens, np.zeros((len(tokens), 8)), confidence, plan)


def bridge(folder: pathlib.Path, lengths=(4, 2, 3)) -> pathlib.Path:
  """Write a dataset in the layout of bridge_dataset, with a split `val`.

  Its motions are within the bounds of arm7d.
  """
  episodes = []
  for seed, length in enumerate(lengths):
    draw = np.random.default_rng(seed)
    action = np.concatenate([draw.uniform(-0.04, 0.04, (length, 6)), draw.integers(0, 2, (length, 1))], -1)
    episodes.append(rlds_episodes.episode('bridge_dataset', length, seed, action=action.astype(np.float32)))
  return rlds_episodes.write(folder, 'bridge_dataset', {'val': episodes})
