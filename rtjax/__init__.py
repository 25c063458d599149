"""rtjax: Robotics Transformers in JAX."""
import importlib
import os
from typing import TYPE_CHECKING, Any

# Before JAX and TensorFlow are imported, which report on the processor and on oneDNN; both are needed to silence them.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')  # JAX would set 1
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')

if TYPE_CHECKING:
  from rtjax.actions import ActionField as ActionField
  from rtjax.actions import ActionSpec as ActionSpec

__version__ = '0.3.0'

# Loaded at first use: `import rtjax` imports not even JAX, and nothing here pulls in TensorFlow.
_LAZY = {'ActionField': 'rtjax.actions', 'ActionSpec': 'rtjax.actions', 'load_model': 'rtjax.pretrained',
         'load_policy': 'rtjax.policies.policy'}


def __getattr__(name: str) -> Any:
  if name in _LAZY:
    return getattr(importlib.import_module(_LAZY[name]), name)
  try:
    return importlib.import_module(f'rtjax.{name}')
  except ModuleNotFoundError as error:
    if error.name != f'rtjax.{name}':
      raise
    raise AttributeError(f'module rtjax has no attribute {name!r}') from None
