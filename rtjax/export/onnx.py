"""ONNX: policy.onnx, and history.npz with what a robot starts from.

Inputs `images`, `embeddings`, `proprioception` where the network looks at it, and one `history_NAME` for each array of
the history; outputs `logits`, `tokens`, `action` and one `next_history_NAME` each, which the next step takes in. The
batch is dynamic.

By way of TensorFlow and tf2onnx: their graph of the official network runs twice as fast in onnxruntime as that of
jax2onnx 0.13, the last one whose requirements (orbax-checkpoint) agree with rtjax's.
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
from rtjax.export.step import Step, save_history
from rtjax.export.tensorflow_step import TensorFlowStep

_OPSET = 18  # onnxruntime 1.14 and later


def save(step: Step, folder: pathlib.Path, int8: bool) -> None:
  """Writes policy.onnx and history.npz; with `int8`, matrix products take 8-bit weights and quantise what comes in."""
  path = folder / 'policy.onnx'
  if int8:
    with tempfile.TemporaryDirectory() as scratch:
      _convert(step, pathlib.Path(scratch) / 'float32.onnx')
      _quantize(pathlib.Path(scratch) / 'float32.onnx', path)
  else:
    _convert(step, path)
  save_history(step, folder)


def load(folder: pathlib.Path, step: Step) -> Any:
  """The program in onnxruntime: (history, *inputs) -> outputs, as `Step` names them."""
  session = onnxruntime.InferenceSession(folder / 'policy.onnx', providers=['CPUExecutionProvider'])
  outputs = [output.name for output in session.get_outputs()]

  def run(history: dict[str, np.ndarray], *inputs: np.ndarray) -> dict[str, Any]:
    given = {f'history_{name}': value for name, value in history.items()} | dict(zip(step.inputs, inputs, strict=True))
    found = dict(zip(outputs, session.run(outputs, given), strict=True))
    return {'history': {name: found.pop(f'next_history_{name}') for name in history}, **found}
  return run


def _convert(step: Step, path: pathlib.Path) -> None:
  logging.getLogger('tf2onnx').setLevel(logging.ERROR)  # it reports each pass
  history, *others = step.shapes(None)
  names = [f'history_{name}' for name in history] + step.inputs
  signature = [tf.TensorSpec(shape.shape, shape.dtype, name)
               for name, shape in zip(names, [*history.values(), *others], strict=True)]
  call = TensorFlowStep(step)

  def flat(*inputs: Any) -> dict[str, Any]:
    found = call(dict(zip(history, inputs, strict=False)), *inputs[len(history):])
    return {f'next_history_{name}': value for name, value in found.pop('history').items()} | found

  function = tf.function(flat, input_signature=signature, autograph=False)
  model, _ = tf2onnx.convert.from_function(function, signature, opset=_OPSET)
  for value in (*model.graph.input, *model.graph.output):
    value.type.tensor_type.shape.dim[0].dim_param = 'batch'
  onnx.save(model, path)


def _quantize(path: pathlib.Path, target: pathlib.Path) -> None:
  # 7 bits of the weights' 8: a processor without VNNI adds two products in 16 bits, where those of 8 bits overflow
  # unnoticed. Unsigned weights would not, and are as slow as float32.
  quantize_dynamic(path, target, per_channel=True, weight_type=QuantType.QInt8, reduce_range=True,
                   op_types_to_quantize=['MatMul'])
