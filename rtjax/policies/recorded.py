"""Recorded episodes as the input of a policy."""
import numpy as np

from rtjax.data.episode import Episode, EpisodeSource
from rtjax.data.episodes.open import open_dataset as open_episodes
from rtjax.data.language import ComputedVectors, NoVectors, Vectors
from rtjax.language import instructions
from rtjax.policies.policy import Policy


def open_dataset(policy: Policy, name: str, split: str) -> EpisodeSource:
  """Open a dataset with the cameras, state and actions of a policy.

  Instructions whose vectors the dataset does not store are encoded by the policy's encoder.

  Args:
    name: folder of an RLDS or LeRobot dataset, gs:// folder or TFDS name.
    split: in TFDS's split algebra.

  Raises:
    FileNotFoundError: there is no such dataset.
    ValueError: the split is unknown or empty, or the instructions were encoded by another encoder than the policy's,
      which is neither built in nor given.
  """
  dataset = open_episodes(name, split, policy.config.action_spec, views=policy.metadata.views,
                          camera=policy.metadata.camera, proprioception=policy.config.proprioception_size > 0,
                          vectors=_vectors(policy))
  expected, recorded = policy.metadata.embedding_id, dataset.embedding_id
  if not policy.config.reads_prompts and expected and expected != recorded:
    raise ValueError(f'the policy was trained on instruction embeddings of {expected!r}, the dataset {name} holds '
                     f'those of {recorded!r}, which are not compatible. Choose a dataset with embeddings of '
                     f'{expected!r}, or give the policy that encoder.')
  return dataset


def _vectors(policy: Policy) -> Vectors | None:
  """Return the policy's encoder, for datasets without its vectors."""
  if policy.config.reads_prompts:
    return NoVectors()
  if policy.encoder is None and policy.metadata.embedding_id not in instructions.NAMED:
    return None
  return ComputedVectors(instructions.for_policy(policy.metadata.embedding_id, policy.encoder))


def encoded_instructions(policy: Policy, episode: Episode) -> np.ndarray:
  """Return the instruction of each step as the policy takes it.

  Returns:
    The embeddings, float32 [steps, E]; for models that read prompts token ids, int32 [steps, L]. As in training, a step
    without an instruction has zeros.
  """
  if not policy.config.reads_prompts:
    return episode.embeddings
  encoder = instructions.for_policy(policy.metadata.embedding_id, policy.encoder)
  ids = np.zeros((len(episode), encoder.size), np.int32)
  has_text = episode.instructions != ''
  ids[has_text] = encoder(episode.instructions[has_text].tolist())
  return ids
