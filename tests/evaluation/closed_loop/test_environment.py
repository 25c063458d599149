"""Environments opened by name."""
import pytest

pytest.importorskip('mujoco', reason="needs the extra 'sim'")

from helpers import toy_env

from rtjax.evaluation.closed_loop import environment


def test_environment_that_does_not_run_is_reported_early(monkeypatch):
  def broken(*_, **__):
    raise RuntimeError("renderer 'gl': OpenGL does not start here")

  monkeypatch.setattr('rtjax.envs.make', broken)
  splits = environment.choose_splits('tabletop', (), ())
  with pytest.raises(ValueError, match='OpenGL does not start here'):
    environment.open_environment('tabletop', splits, {})


def test_settings_of_the_images_are_recorded(monkeypatch):
  class Lit(toy_env.ToyEnv):
    renderer_name, render_settings = 'gl', {'shadow_map': 0}

  monkeypatch.setattr('rtjax.envs.make', lambda name, split, **_: Lit(split))
  opened = environment.open_environment('lit', {'seen': ()}, {'image_size': (8, 12)})
  assert opened.settings == {'image_size': (8, 12), 'renderer': 'gl', 'shadow_map': 0}


def test_chosen_splits_have_the_chosen_skills():
  chosen = environment.choose_splits('tabletop', ('distractors_many', 'seen'), ('knock', 'pick'))
  assert dict(chosen) == {'distractors_many': ('pick',), 'seen': ('pick', 'knock')}


def test_instruction_for_the_blind_baseline():
  assert toy_env.environment().sample_instruction() == 'pick the seen object'
