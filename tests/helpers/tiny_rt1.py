"""A small RT-1 that compiles in seconds, and batches for it."""
import dataclasses

import numpy as np

from rtjax import actions
from rtjax.models import RT1Config
from rtjax.models.backbones.film_efficientnet import B0_STAGES, EfficientNetConfig
from rtjax.observation import Batch, Observation

TINY = RT1Config(
    action_spec=actions.ARM_7D, window=3, image_size=(32, 32), image_tokens=4, token_width=16, width=16, layers=2,
    heads=2, head_size=8, encoder=EfficientNetConfig(width=0.2, depth=0.2, stages=B0_STAGES[:3]))


def tiny_batch(config: RT1Config, batch_size: int, seed: int = 0, size: tuple[int, int] = (32, 40)) -> Batch:
  """Random images, states and actions within bounds, nothing masked."""
  random = np.random.default_rng(seed)
  lead = (batch_size, config.window)
  spec = config.action_spec
  low, high = spec.bounds
  images = random.integers(0, 256, (*lead, *size, 3), dtype=np.uint8)
  instruction = random.normal(size=(*lead, config.embedding_size)).astype(np.float32)
  recorded = random.uniform(low, high, (*lead, config.horizon, spec.size)).astype(np.float32)
  state = random.normal(size=(*lead, config.proprioception_size)).astype(np.float32)
  observation = Observation(images, np.ones(lead, bool), instruction,
                            proprioception=state if config.proprioception_size else None)
  waypoints = random.normal(size=(*lead, 3)).astype(np.float32) if config.auxiliary.waypoint_weight else None
  return Batch(observation, recorded, np.ones((*lead, config.horizon), bool), waypoints)


def observed(batch: Batch, **changes: np.ndarray | None) -> Batch:
  """The batch with fields of its observation replaced."""
  assert batch.observation is not None
  return dataclasses.replace(batch, observation=dataclasses.replace(batch.observation, **changes))
