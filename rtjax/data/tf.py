"""Import TensorFlow, TFDS and rlds with the settings that rtjax.data needs.

No other module of rtjax.data imports them directly.

- TensorFlow only reads and decodes: it must not claim GPU memory, which belongs to JAX.
- A builder whose dataset is not there yet would make an empty temporary folder, for a description in a bucket that TFDS
  does not ask any more.
- `import rlds` fails without dm-reverb, which only its module `transformations.pattern` uses, and which is tied to
  TensorFlow 2.14. A stub with the names in that module's signatures makes the rest of rlds usable.
"""
import importlib.util
import sys
import types
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

tf.config.set_visible_devices([], 'GPU')
tfds.core.DatasetInfo.initialize_from_bucket = lambda info: None
tf.get_logger().setLevel('ERROR')  # TFDS and the reading of records use functions marked as deprecated.


def _import_rlds() -> Any:
  if importlib.util.find_spec('reverb') is not None:
    return importlib.import_module('rlds')
  stub: Any = types.ModuleType('reverb')
  stub.structured_writer = types.SimpleNamespace(Config=Any, ReferenceStep=Any, Pattern=Any, Condition=Any)
  sys.modules['reverb'] = stub
  try:
    return importlib.import_module('rlds')
  finally:
    del sys.modules['reverb']  # other importers of reverb must see that it is not installed


rlds = _import_rlds()

__all__ = ['rlds', 'tf', 'tfds']
