"""Splits: held-out episodes never pass as training data."""
import dataclasses
import itertools

import numpy as np
import pytest

pytest.importorskip('mujoco', reason="needs the extra 'sim'")

from rtjax.envs.tabletop import language, layout, reasoning, splits, synonyms, tasks
from rtjax.envs.tabletop.categories import CATEGORIES
from rtjax.envs.tabletop.objects import COLOURS, KINDS, SEEN_KINDS, UNSEEN_KINDS, Item
from rtjax.envs.tabletop.scene import Appearance
from rtjax.envs.tabletop.textures import TABLES_UNSEEN, WALLS_UNSEEN


def sample(split, count, skill=None):
  rng = np.random.default_rng(0)
  return [layout.sample(splits.get(split), rng, skill) for _ in range(count)]


def require_seen(episode):
  items = tuple(placed.item for placed in episode.scene.objects)
  splits.require_seen(episode.task, episode.instruction, items, episode.scene.appearance)


def test_training_episodes_are_seen():
  episodes = sample('seen', 400)
  for episode in episodes:
    require_seen(episode)
  assert {e.task.skill for e in episodes} == set(tasks.SKILLS)
  assert {p.item.kind for e in episodes for p in e.scene.objects} == set(SEEN_KINDS)
  assert {p.item.colour for e in episodes for p in e.scene.objects} == set(COLOURS)


@pytest.mark.parametrize('split', ['unseen_instructions', 'unseen_phrasings', 'synonyms', 'unseen_objects',
                                   'unseen_backgrounds'])
def test_held_out_episodes_are_rejected(split):
  for episode in sample(split, 100):
    with pytest.raises(ValueError, match='held out of training data'):
      require_seen(episode)


def test_each_held_out_part_is_rejected():
  episode = sample('seen', 1, 'pick')[0]
  task, text, items, style = episode.task, episode.instruction, (episode.task.target,), episode.scene.appearance
  splits.require_seen(task, text, items, style)
  unseen = Item(UNSEEN_KINDS[0], 'red')
  for arguments in ((task, text, (*items, unseen), style), (task, f'{text} now', items, style),
                    (task, text, items, dataclasses.replace(style, table=TABLES_UNSEEN[0])),
                    (task, text, items, dataclasses.replace(style, wall=WALLS_UNSEEN[0])),
                    (tasks.Task('pick', unseen), f'pick up the {unseen.name}', (unseen,), Appearance())):
    with pytest.raises(ValueError, match='held out'):
      splits.require_seen(*arguments)


def test_seen_and_held_out_tasks_are_disjoint_and_diverse():
  for skill in tasks.SKILLS:
    seen, combinations, objects = (set(splits.tasks(skill, reason)) for reason in ('', 'instruction', 'object'))
    assert not seen & combinations and not seen & objects and not combinations & objects
    if skill in ('open_drawer', 'close_drawer'):
      continue
    assert 0.08 < len(combinations) / len(seen | combinations) < 0.35
    # Each kind and colour of a held-out combination occurs in seen ones.
    assert {t.target.kind for t in combinations} <= {t.target.kind for t in seen}
    assert {t.target.colour for t in combinations} <= {t.target.colour for t in seen}


def test_instructions_are_many_and_unambiguous():
  texts = [text for skill in tasks.SKILLS for task in splits.tasks(skill) for text in language.instructions(task)]
  assert len(texts) > 1000 and len(set(texts)) == len(texts)  # no instruction has two meanings
  assert len([kind for kind in KINDS if kind in SEEN_KINDS]) >= 12 and len(COLOURS) >= 6


@pytest.mark.parametrize('split, low, high', [
    ('distractors_none', 0, 0), ('distractors_few', 2, 5), ('distractors_many', 9, 9), ('seen', 1, 3)])
def test_number_of_distractors(split, low, high):
  counts = set()
  for episode in sample(split, 60):
    items = [placed.item for placed in episode.scene.objects]
    others = [item for item in items if item not in episode.task.items]
    assert len(set(items)) == len(items) and low <= len(others) <= high
    counts.add(len(others))
    if split == 'distractors_many':
      target = episode.task.target
      assert all(item.kind == target.kind or item.colour == target.colour for item in others)
  assert counts == set(range(low, high + 1))


@pytest.mark.parametrize('sort', ['use', 'kind'])
def test_descriptions_fit_one_object(sort):
  """The instruction does not name its object and excludes all others."""
  used = set()
  for episode in sample(f'reasoning_{sort}', 150):
    target, text = episode.task.target, episode.instruction
    others = [placed.item for placed in episode.scene.objects if placed.item != target]
    assert others and episode.scene.bowl is None
    name, category = next((n, c) for n, c in CATEGORIES.items() if text.endswith(tuple(f' {w}' for w in c.held_out)))
    assert category.contains(target.kind) and not any(category.contains(item.kind) is not False for item in others)
    assert not {target.kind, target.colour} & set(text.split())
    assert splits.held_out(episode.task) == ('animal' if sort == 'kind' else '')
    with pytest.raises(ValueError, match='held out of training data'):
      require_seen(episode)
    used.add(name)
  assert used == ({'animal', 'extinct'} if sort == 'kind' else {
      'drink', 'round', 'light', 'clean', 'power', 'play', 'build', 'hold'})


def test_exceptions_fit_one_of_two_objects():
  for episode in sample('reasoning_exception', 150):
    target, text = episode.task.target, episode.instruction
    (other,) = (placed.item for placed in episode.scene.objects if placed.item != target)
    name = text.split(' the ')[-1]
    assert name in (other.name, other.kind, f'{other.colour} one')
    assert name not in (target.name, target.kind, f'{target.colour} one')
    with pytest.raises(ValueError, match='held out of training data'):
      require_seen(episode)


def test_reasoning_has_all_sorts_and_is_determined_by_its_seed():
  one, other = sample('reasoning', 60), sample('reasoning', 60)
  assert [(e.instruction, e.scene) for e in one] == [(e.instruction, e.scene) for e in other]
  texts = ' '.join(episode.instruction for episode in one)
  assert 'except' in texts and 'extinct' in texts and 'torch' in texts


def test_decisive_words_are_in_no_robot_instruction():
  known = {word for skill in tasks.SKILLS for task in splits.tasks(skill) for seen in (True, False)
           for text in language.instructions(task, seen) for word in text.split()}
  for category in CATEGORIES.values():
    for wording in (*category.wordings, *category.asked, *category.held_out):
      assert set(wording.split()) - known - {'something', 'thing', 'a', 'an', 'the', 'for'}, wording


def test_held_out_wordings_are_new_sentences_of_words_in_texts():
  """Pointing lacks one family of words of each category, which questions have."""
  every = [*itertools.chain(*((*c.wordings, *c.asked, f'something {c.phrase}') for c in CATEGORIES.values()))]
  pointed = {word for c in CATEGORIES.values() for wording in c.wordings for word in wording.split()}
  words = {word for text in every for word in text.split()}
  for category in CATEGORIES.values():
    assert category.wordings and category.held_out
    assert not any(held in text for held in category.held_out for text in every)
    assert all(set(held.split()) <= words for held in category.held_out)
    assert {word for text in category.asked for word in text.split()} - pointed
  assert not any(held.split(' {')[0] == text.split(' {')[0] for held in reasoning.EXCEPT
                 for text in reasoning.POINTED_EXCEPT)


def test_held_out_phrasings_are_disjoint():
  for skill in tasks.SKILLS:
    assert not set(language.templates(skill)) & set(language.templates(skill, seen=False))
    assert len(language.templates(skill)) >= 4


def test_held_out_tasks_do_not_change():
  """Changed keys would move tasks between the splits of existing datasets."""
  red_can = Item('can', 'red')
  reasons = [splits.held_out(task) for task in (
      tasks.Task('pick', Item('jar', 'red')), tasks.Task('pick', red_can), tasks.Task('open_drawer'))]
  assert reasons == ['object', '', '']
  assert len(splits.tasks('pick', 'instruction')) == 18
  assert len(splits.tasks('move_near', 'instruction')) == 1814


def test_synonyms_are_words_of_no_training_text():
  """Each belongs to one colour or kind, and every object of training data has some."""
  words = [*itertools.chain(*synonyms.COLOUR_SYNONYMS.values(), *synonyms.KIND_SYNONYMS.values())]
  assert len(words) == len(set(words)) and len(words) >= 50
  assert set(synonyms.COLOUR_SYNONYMS) == set(COLOURS) and set(synonyms.KIND_SYNONYMS) == set(SEEN_KINDS)
  known = {word for skill in tasks.SKILLS for task in splits.tasks(skill) for text in language.instructions(task)
           for word in text.split()} | {word for c in CATEGORIES.values() for word in c.phrase.split()} | set(KINDS)
  assert not {part for word in words for part in word.split()} & known


def test_synonyms_have_the_scenes_of_seen_episodes():
  for seed in range(20):
    one, other = (layout.sample(splits.get(split), np.random.default_rng(seed), 'pick')
                  for split in ('seen', 'synonyms'))
    assert one.scene == other.scene and one.task == other.task
    assert any(name in other.instruction for name in synonyms.names(other.task.target))
    assert other.task.target.name not in other.instruction
