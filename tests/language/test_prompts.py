"""The prompts that tell tasks apart."""
import pytest

from rtjax.language.prompts import TASKS, prompt


def test_each_task_has_its_own():
  assert prompt('robot', 'pick up the apple') == 'What action should the robot take to pick up the apple?'
  assert prompt('caption') == 'Describe the picture.'
  made = [prompt(kind, '' if kind == 'caption' else 'the same text') for kind in TASKS]
  assert len(set(made)) == len(TASKS) == 5


def test_bad_input():
  with pytest.raises(ValueError, match=r"unknown task 'captoin'.*Did you mean 'caption'"):
    prompt('captoin')
  with pytest.raises(ValueError, match="'vqa' needs a text"):
    prompt('vqa', ' ')
  with pytest.raises(ValueError, match="'caption' takes no text"):
    prompt('caption', 'a cube')
