"""TensorFlow, TFDS and rlds, imported the one way that works here. Nothing else of rtjax.data imports them directly.

- TensorFlow only reads and decodes: it must not claim a GPU's memory, which belongs to JAX.
- `import rlds` fails without dm-reverb, which its module `transformations.pattern` alone uses, and which is tied to
  TensorFlow 2.14. A stand-in that has the names mentioned in that module's signatures makes the rest of rlds usable.
"""
import importlib.util
import os
import sys
import types
from typing import Any

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')  # Before the import, which else prints the CPU's features.

import tensorflow as tf
import tensorflow_datasets as tfds

tf.config.set_visible_devices([], 'GPU')
tf.get_logger().setLevel('ERROR')  # TFDS and the reading of records use functions marked as deprecated.


def _import_rlds() -> Any:
  if importlib.util.find_spec('reverb') is not None:
    return importlib.import_module('rlds')
  stand_in: Any = types.ModuleType('reverb')
  stand_in.structured_writer = types.SimpleNamespace(Config=Any, ReferenceStep=Any, Pattern=Any, Condition=Any)
  sys.modules['reverb'] = stand_in
  try:
    return importlib.import_module('rlds')
  finally:
    del sys.modules['reverb']  # Whoever else asks for reverb shall learn that it is not installed.


rlds = _import_rlds()

__all__ = ['rlds', 'tf', 'tfds']
