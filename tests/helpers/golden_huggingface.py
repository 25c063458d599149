"""Tiny checkpoints in published form, with outputs of the reference implementation.

parity/vlm/README.md in the folder of reference data describes them.
"""
import functools
import os
import pathlib
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rtjax
from rtjax.models.layers import attention
from rtjax.models.layers.layer_stack import LayerStack

DIFFERENCES: dict[tuple[str, str], float] = {}
IDS: dict[tuple[str, str], int] = {}
MATCHED: dict[str, tuple[int, int]] = {}
"""By case and output, and by manifest: what bench/backbone_parity.py prints after the tests."""
ATOL = 1e-4  # in float32; the reference itself moves by up to 3e-5


@functools.lru_cache(maxsize=3)
def load(shared: pathlib.Path, case: str):
  """Return the model of a case, and its golden arrays; tests share and do not change them."""
  folder = shared / 'parity/vlm' / case
  if not folder.is_dir():
    pytest.skip(f'no reference outputs at {folder}: this test compares with them')
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # tests/pretrained tests the warnings
    model = rtjax.pretrained.load_huggingface(folder)
  with np.load(folder / 'golden.npz') as golden:
    return model, dict(golden)


def run(model: nnx.Module, function, *inputs):
  """Return `function(model, *inputs)`, compiled."""
  graphdef, state = nnx.split(model)
  return jax.jit(lambda state, *inputs: function(nnx.merge(graphdef, state), *inputs))(state, *inputs)


def pixels(golden, name: str = 'pixel_values'):
  """Return pixels with channels last."""
  return jnp.asarray(golden[name].transpose(0, 2, 3, 1))


def close(actual, expected, output: str):
  """Assert that an output equals the golden one; record the largest difference."""
  actual, expected = np.asarray(actual), np.asarray(expected)
  np.testing.assert_allclose(actual, expected, rtol=0, atol=ATOL, err_msg=output)
  key = _case(), re.sub(r'(hidden|probs)_\d+$', r'\1_i', output)
  DIFFERENCES[key] = max(DIFFERENCES.get(key, 0.0), float(np.abs(actual - expected).max()))


def check_embeddings(model, golden, image_id: int) -> None:
  """Compare the image encoder's output and the embeddings of texts."""
  close(model.vision(pixels(golden)), golden['vision_last_hidden_state'], 'vision_last_hidden_state')
  text = golden['input_ids'] != image_id
  close(model.embed_text(jnp.asarray(golden['input_ids']))[text], golden['text_embeds'][text], 'text_embeds')


def equal_ids(actual, expected, output: str):
  """Assert that ids of greedy decoding are the golden ones; record their number."""
  np.testing.assert_array_equal(actual, expected, err_msg=output)
  IDS[_case(), output] = np.size(expected)


def _case() -> str:
  """Return the parameter of the running test."""
  return re.search(r'\[([\w.-]+)', os.environ['PYTEST_CURRENT_TEST'])[1]


def hidden_states(model, x):
  """Return the residual stream around each layer, and the output."""
  states = [model.embed(model.features(x))]
  for layer in model.layers:
    states.append(layer(states[-1]))
  return states, model(x)


def layer_by_layer(monkeypatch) -> tuple[list, list]:
  """Run stacks of layers without a loop; return lists that take each layer's input and attention weights."""
  hidden, weights, weighted = [], [], attention._weighted

  def scan(stack, call, x, *inputs, **options):
    outputs = []
    for number, layer in enumerate(stack):
      hidden.append(x)
      x, output = call(layer, x, *jax.tree.map(lambda leaf, n=number: leaf[n], inputs), None)
      outputs.append(output)
    return x, jax.tree.map(lambda *each: jnp.stack(each), *outputs)

  def recorded(scores, value):
    weights.append(scores)
    return weighted(scores, value)
  monkeypatch.setattr(LayerStack, 'scan', scan)
  monkeypatch.setattr(attention, '_weighted', recorded)
  return hidden, weights
