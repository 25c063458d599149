"""Recorded episodes as the input of a policy."""
import numpy as np

from rtjax.data.rlds.episodes import Dataset, Episode
from rtjax.language import instructions
from rtjax.policies.policy import Policy


def open_dataset(policy: Policy, name: str, split: str) -> Dataset:
  """Open a dataset with the cameras, state and actions of a policy.

  Args:
    name: folder of an RLDS dataset, gs:// folder or TFDS name.
    split: in TFDS's split algebra.

  Raises:
    FileNotFoundError: there is no such dataset.
    ValueError: the split is unknown or empty, or the instructions were encoded by another encoder than the policy's.
  """
  dataset = Dataset(name, split, policy.config.action_spec, views=policy.metadata.views,
                    proprioception=policy.config.proprioception_size > 0)
  expected, recorded = policy.metadata.embedding_id, dataset.adapter.embedding_id
  if not policy.config.reads_prompts and expected and expected != recorded:
    raise ValueError(f'the policy was trained on instruction embeddings of {expected!r}, the dataset {name} holds '
                     f'those of {recorded!r}, which are not compatible. Choose a dataset with embeddings of '
                     f'{expected!r}.')
  return dataset


def encoded_instructions(policy: Policy, episode: Episode) -> np.ndarray:
  """Return the instruction of each step as the policy takes it.

  Returns:
    The recorded embeddings, float32 [steps, E]; for models that read prompts token ids, int32 [steps, L].
  """
  if not policy.config.reads_prompts:
    return episode.embeddings
  encoder = instructions.for_policy(policy.metadata.embedding_id, policy.encoder)
  return encoder([str(instruction) for instruction in episode.instructions])
