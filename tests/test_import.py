"""Imports stay light: none of these brings TensorFlow, PyTorch or a simulator."""
import subprocess
import sys

import pytest

import rtjax

HEAVY = ('tensorflow', 'tensorflow_datasets', 'torch', 'keras', 'mujoco', 'gymnasium')


@pytest.mark.parametrize('statement', [
    'import rtjax', 'import rtjax.data', 'from rtjax.policies.policy import Policy; from rtjax.models import RT1',
    'import rtjax.evaluation', 'import rtjax.envs',
    'import rtjax.language.instructions, rtjax.policies.action_filters, rtjax.policies.robots',
    'import rtjax.language.tokenizer, rtjax.language.prompts, rtjax.evaluation.language.vqa, rtjax.data.config'])
def test_no_tensorflow(statement):
  code = f'{statement}; import sys; print([m for m in {HEAVY} if m in sys.modules])'
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == '[]'


@pytest.mark.parametrize('flag', ['--help', '--list'])
def test_usage_and_presets_wait_for_no_jax(flag):
  code = f"""import sys
from rtjax import train
try:
  train.parse(['{flag}'])
finally:
  print([m for m in ('jax', 'flax', 'tyro') if m in sys.modules])"""
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert done.stdout.splitlines()[-1] == '[]'


def test_public_names():
  assert callable(rtjax.load_model) and callable(rtjax.load_policy)
  assert rtjax.actions.get('rt1').num_tokens == 11
  with pytest.raises(AttributeError, match='load_modle'):
    rtjax.load_modle  # noqa: B018
