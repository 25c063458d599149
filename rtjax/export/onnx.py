"""ONNX: policy.onnx, and cache.npz with the cache before the first frame.

Inputs: one `cache_NAME` for each array of the cache, `images`, `embeddings` or `prompt`, and `proprioception` where the
model uses it. Outputs: `logits`, `tokens`, `action`, and one `next_cache_NAME` for each array, which is an input of the
next step. The batch is dynamic.

The graph is made through TensorFlow and tf2onnx: for the official network it runs twice as fast in onnxruntime as the
graph of jax2onnx 0.13, the last version whose requirements (orbax-checkpoint) agree with those of rtjax.
"""
import logging
import pathlib
import tempfile
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tf2onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from rtjax.data.tf import tf
from rtjax.export.step import Step, save_cache
from rtjax.export.tensorflow_step import TensorFlowStep

_OPSET = 18  # onnxruntime 1.14 and later


def save(step: Step, folder: pathlib.Path, int8: bool) -> None:
  """Write policy.onnx and cache.npz; with `int8`, matrix products run in 8 bits."""
  path = folder / 'policy.onnx'
  if int8:
    with tempfile.TemporaryDirectory() as scratch:
      _convert(step, pathlib.Path(scratch) / 'float32.onnx')
      _quantize(pathlib.Path(scratch) / 'float32.onnx', path)
  else:
    _convert(step, path)
  save_cache(step, folder)


def load(folder: pathlib.Path, step: Step) -> Any:
  """Return the program in onnxruntime: (cache, *inputs) -> outputs of `Step`."""
  session = onnxruntime.InferenceSession(folder / 'policy.onnx', providers=['CPUExecutionProvider'])
  names = [output.name for output in session.get_outputs()]

  def run(cache: dict[str, np.ndarray], *inputs: np.ndarray) -> dict[str, Any]:
    feed = {f'cache_{name}': value for name, value in cache.items()} | dict(zip(step.inputs, inputs, strict=True))
    outputs = dict(zip(names, session.run(names, feed), strict=True))
    return {'cache': {name: outputs.pop(f'next_cache_{name}') for name in cache}, **outputs}
  return run


def _convert(step: Step, path: pathlib.Path) -> None:
  logging.getLogger('tf2onnx').setLevel(logging.ERROR)  # it reports each pass
  cache, *others = step.shapes(None)
  names = [f'cache_{name}' for name in cache] + step.inputs
  signature = [tf.TensorSpec(shape.shape, shape.dtype, name)
               for name, shape in zip(names, [*cache.values(), *others], strict=True)]
  call = TensorFlowStep(step)

  def flat(*inputs: Any) -> dict[str, Any]:
    outputs = call(dict(zip(cache, inputs, strict=False)), *inputs[len(cache):])
    return {f'next_cache_{name}': value for name, value in outputs.pop('cache').items()} | outputs

  function = tf.function(flat, input_signature=signature, autograph=False)
  model, _ = tf2onnx.convert.from_function(function, signature, opset=_OPSET)
  for value in (*model.graph.input, *model.graph.output):
    value.type.tensor_type.shape.dim[0].dim_param = 'batch'
  onnx.save(model, path)


def _quantize(path: pathlib.Path, target: pathlib.Path) -> None:
  # 7 of the weights' 8 bits: a processor without VNNI adds two products in 16 bits, which 8-bit weights overflow
  # without an error. Unsigned weights would not overflow, but are as slow as float32.
  quantize_dynamic(path, target, per_channel=True, weight_type=QuantType.QInt8, reduce_range=True,
                   op_types_to_quantize=['MatMul'])
