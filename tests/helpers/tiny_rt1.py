"""A network small enough to compile in seconds, and batches for it."""
import numpy as np

from rtjax import actions
from rtjax.models import RT1Config
from rtjax.models.backbones.film_efficientnet import B0_STAGES, EfficientNetConfig

TINY = RT1Config(
    action_spec=actions.ARM_7D, window=3, image_size=(32, 32), image_tokens=4, token_width=16, width=16, layers=2,
    heads=2, head_size=8, encoder=EfficientNetConfig(width=0.2, depth=0.2, stages=B0_STAGES[:3]))


def tiny_batch(config: RT1Config, batch_size: int, seed: int = 0,
               size: tuple[int, int] = (32, 40)) -> dict[str, np.ndarray]:
  """Random pictures and actions within bounds, nothing masked."""
  random = np.random.default_rng(seed)
  lead = (batch_size, config.window)
  spec = config.action_spec
  low, high = (np.concatenate([getattr(f, side) for f in spec.fields]) for side in ('low', 'high'))
  return {
      'images': random.integers(0, 256, (*lead, *size, 3), dtype=np.uint8),
      'embeddings': random.normal(size=(*lead, config.embedding_size)).astype(np.float32),
      'actions': random.uniform(low, high, (*lead, config.horizon, spec.size)).astype(np.float32),
      'mask': np.ones((*lead, config.horizon), bool),
      'frames': np.ones(lead, bool)}
