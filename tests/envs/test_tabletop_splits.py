"""Held out means held out: nothing of another split passes the gate in front of training data."""
import dataclasses

import numpy as np
import pytest

pytest.importorskip('mujoco', reason="needs the extra 'sim'")

from rtjax.envs.tabletop import language, layout, splits, tasks
from rtjax.envs.tabletop.categories import CATEGORIES
from rtjax.envs.tabletop.objects import COLOURS, KINDS, SEEN_KINDS, UNSEEN_KINDS, Item
from rtjax.envs.tabletop.scene import Look
from rtjax.envs.tabletop.textures import TABLES_UNSEEN, WALLS_UNSEEN


def drawn(split, count, skill=None):
  draw = np.random.default_rng(0)
  return [layout.sample(splits.get(split), draw, skill) for _ in range(count)]


def gate(episode):
  items = tuple(placed.item for placed in episode.scene.objects)
  splits.require_seen(episode.task, episode.instruction, items, episode.scene.look)


def test_all_that_training_draws_is_seen():
  episodes = drawn('seen', 400)
  for episode in episodes:
    gate(episode)
  assert {e.task.skill for e in episodes} == set(tasks.SKILLS)
  assert {p.item.kind for e in episodes for p in e.scene.objects} == set(SEEN_KINDS)
  assert {p.item.colour for e in episodes for p in e.scene.objects} == set(COLOURS)


@pytest.mark.parametrize('split', ['unseen_instructions', 'unseen_phrasings', 'unseen_objects', 'unseen_backgrounds'])
def test_all_that_a_held_out_split_draws_is_refused(split):
  for episode in drawn(split, 100):
    with pytest.raises(ValueError, match='held out of training data'):
      gate(episode)


def test_gate_looks_at_each_part():
  episode = drawn('seen', 1, 'pick')[0]
  task, words, items, look = episode.task, episode.instruction, (episode.task.target,), episode.scene.look
  splits.require_seen(task, words, items, look)
  strange = Item(UNSEEN_KINDS[0], 'red')
  for refused in ((task, words, (*items, strange), look), (task, f'{words} now', items, look),
                  (task, words, items, dataclasses.replace(look, table=TABLES_UNSEEN[0])),
                  (task, words, items, dataclasses.replace(look, wall=WALLS_UNSEEN[0])),
                  (tasks.Task('pick', strange), f'pick up the {strange.name}', (strange,), Look())):
    with pytest.raises(ValueError, match='held out'):
      splits.require_seen(*refused)


def test_seen_and_held_out_tasks_are_apart_and_both_wide():
  for skill in tasks.SKILLS:
    seen, combinations, objects = (set(splits.tasks(skill, reason)) for reason in ('', 'instruction', 'object'))
    assert not seen & combinations and not seen & objects and not combinations & objects
    if skill in ('open_drawer', 'close_drawer'):
      continue
    assert 0.08 < len(combinations) / len(seen | combinations) < 0.35
    # Each kind and colour that is asked for in a held-out combination is known from seen ones.
    assert {t.target.kind for t in combinations} <= {t.target.kind for t in seen}
    assert {t.target.colour for t in combinations} <= {t.target.colour for t in seen}


def test_hundreds_of_instructions():
  texts = [text for skill in tasks.SKILLS for task in splits.tasks(skill) for text in language.instructions(task)]
  assert len(texts) > 1000 and len(set(texts)) == len(texts)  # and no sentence means two things
  assert len([kind for kind in KINDS if kind in SEEN_KINDS]) >= 12 and len(COLOURS) >= 6


@pytest.mark.parametrize('split, low, high', [
    ('distractors_none', 0, 0), ('distractors_few', 2, 5), ('distractors_many', 9, 9), ('seen', 1, 3)])
def test_distractors(split, low, high):
  counts = set()
  for episode in drawn(split, 60):
    items = [placed.item for placed in episode.scene.objects]
    others = [item for item in items if item not in episode.task.items]
    assert len(set(items)) == len(items) and low <= len(others) <= high
    counts.add(len(others))
    if split == 'distractors_many':
      target = episode.task.target
      assert all(item.kind == target.kind or item.colour == target.colour for item in others)
  assert counts == set(range(low, high + 1))


def test_reasoning_has_one_right_answer():
  """The words do not name the object, and mean none of those beside it."""
  episodes = drawn('reasoning', 200)
  for episode in episodes:
    target, words = episode.task.target, episode.instruction
    others = [placed.item for placed in episode.scene.objects if placed.item != target]
    assert others and episode.scene.bowl is None and splits.held_out(episode.task) == ''
    category = next((c for c in CATEGORIES.values() if words.endswith(c.thing)), None)
    if category:
      assert category.holds(target.kind) and not any(category.holds(item.kind) is not False for item in others)
      assert not {target.kind, target.colour} & set(words.split())
    else:
      (other,), name = others, words.split(' the ')[-1]
      assert name in (other.name, other.kind, f'{other.colour} one')
      assert name not in (target.name, target.kind, f'{target.colour} one')
    with pytest.raises(ValueError, match='held out of training data'):
      gate(episode)
  assert {c for c in CATEGORIES for e in episodes if e.instruction.endswith(CATEGORIES[c].thing)} == {
      'drink', 'round', 'light', 'clean', 'power', 'play', 'build', 'hold'}


def test_held_out_phrasings_are_apart():
  for skill in tasks.SKILLS:
    assert not set(language.templates(skill)) & set(language.templates(skill, seen=False))
    assert len(language.templates(skill)) >= 4


def test_held_out_tasks_do_not_change():
  """A renamed key would move tasks between the splits of datasets that exist."""
  red_can = Item('can', 'red')
  found = [splits.held_out(task) for task in (
      tasks.Task('pick', Item('jar', 'red')), tasks.Task('pick', red_can), tasks.Task('open_drawer'))]
  assert found == ['object', '', '']
  assert len(splits.tasks('pick', 'instruction')) == 18
  assert len(splits.tasks('move_near', 'instruction')) == 1814
