"""Chunks of successive actions, to fit an action codec on."""
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from rtjax.actions import ActionSpec
from rtjax.data.config import NO_VECTORS, DataConfig
from rtjax.data.episodes.open import open_dataset
from rtjax.data.language import open_vectors


def action_chunks(datasets: Sequence[str], config: DataConfig, action_spec: ActionSpec, horizon: int, *,
                  most: int = 100_000) -> Float[np.ndarray, 'n F A']:
  """Return the `horizon` actions from each step of `config.split` on.

  After the end of an episode its last action repeats. Images are not decoded.

  Args:
    most: of more steps so many are drawn, always the same ones.

  Raises:
    FileNotFoundError, ValueError: a dataset cannot be read with these settings.
  """
  episodes = [episode.actions for name in datasets for episode in open_dataset(
      name, config.split, action_spec, images=False, views=config.views, camera=config.camera,
      vectors=open_vectors(NO_VECTORS), drop_unlabelled=config.drop_unlabelled,
      rt1_x_grippers=config.rt1_x_grippers).read_all() if len(episode)]
  if not episodes:
    raise ValueError(f'{", ".join(datasets)}: no episode of split {config.split!r} has a step to fit action tokens on.')
  ends = np.cumsum([len(actions) for actions in episodes])
  steps = np.arange(ends[-1])
  if len(steps) > most:
    steps = np.sort(np.random.default_rng(0).choice(steps, most, replace=False))
  last = ends[np.searchsorted(ends, steps, side='right')] - 1
  return np.concatenate(episodes)[np.minimum(steps[:, None] + np.arange(horizon), last[:, None])]
