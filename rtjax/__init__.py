"""rtjax: Robotics Transformers in JAX."""
import importlib
from typing import Any

from rtjax.actions import ActionField as ActionField
from rtjax.actions import ActionSpec as ActionSpec

__version__ = '0.2.0'

# Loaded at first use: `import rtjax` stays light, and nothing here pulls in TensorFlow.
_LAZY = {'load_model': 'rtjax.pretrained', 'load_policy': 'rtjax.policies.policy'}


def __getattr__(name: str) -> Any:
  if name in _LAZY:
    return getattr(importlib.import_module(_LAZY[name]), name)
  try:
    return importlib.import_module(f'rtjax.{name}')
  except ModuleNotFoundError as error:
    if error.name != f'rtjax.{name}':
      raise
    raise AttributeError(f'module rtjax has no attribute {name!r}') from None
