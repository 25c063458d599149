"""Pictures with questions: answers are so, what one could doubt is not asked, and no answer gives itself away."""
import collections
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers.paths import ROOT

pytest.importorskip('mujoco', reason="needs the extra 'sim'")

from rtjax.data.chunks import Chunks
from rtjax.envs.tabletop import textures
from rtjax.envs.tabletop.categories import CATEGORIES, Category
from rtjax.envs.tabletop.layout import Episode
from rtjax.envs.tabletop.objects import COLOURS, KINDS, UNSEEN_KINDS, Item
from rtjax.envs.tabletop.scene import Look, Placed, Scene
from rtjax.envs.tabletop.tasks import Task
from rtjax.envs.tabletop.world import World

FOLDER = ROOT / 'data/tabletop_qa'
sys.path.insert(0, str(FOLDER))

import captions  # noqa: E402
import examples  # noqa: E402
import questions  # noqa: E402
import scenes  # noqa: E402

RECIPE = scenes.Recipe(seed=5, image_size=(64, 64))


def view(*objects, bowl=None, drawer=0.0):
  """What the camera sees of objects (name, x, y) that stand on the table."""
  placed = []
  for name, x, y in objects:
    colour, kind = name.split()
    placed.append(Placed(Item(kind, colour), (x, y, KINDS[kind].half_height + 0.0005)))
  scene = Scene(tuple(placed), bowl, drawer, Look(), (0.42, 0.0, 0.25))
  camera = scenes.Camera(scenes.Recipe(image_size=(96, 96)))
  return camera._view(Episode(Task('open_drawer'), '', scene), World(scene))


def asked(seen, name):
  return dict(questions.TYPES[name](seen))


@pytest.fixture(scope='module')
def plain():
  """A red cube to the left and nearer, a blue can to the right, an orange mug far behind."""
  return view(('red cube', 0.60, -0.15), ('blue can', 0.50, 0.05), ('red mug', 0.38, -0.06))


@pytest.fixture(scope='module')
def many():
  return examples.examples(RECIPE, 0, 60)


def test_what_is_seen(plain):
  assert [t.name for t in plain.things] == ['red cube', 'red mug', 'blue can']
  assert not plain.doubtful and not plain.hidden and plain.held == '' and plain.drawer == 'closed'
  assert {t.where for t in plain.things} == {'table'}


def test_answers(plain):
  assert asked(plain, 'colour') == {
      'What colour is the cube?': 'red', 'What colour is the can?': 'blue', 'What colour is the mug?': 'red'}
  assert asked(plain, 'kind') == {'What is the blue object?': 'can'}  # there are two red ones
  exists = asked(plain, 'exists')
  assert exists['Is there a red cube?'] == exists['Is there a mug?'] == 'yes'
  assert exists['Is there a blue cube?'] == exists['Is there a pear?'] == 'no'
  assert asked(plain, 'count_colour') == {
      f'How many {colour} objects are there?': count for colour, count in (
          ('red', '2'), ('orange', '0'), ('yellow', '0'), ('green', '0'), ('blue', '1'), ('purple', '0'))}
  assert asked(plain, 'count_kind')['How many mugs are there?'] == '1'
  assert asked(plain, 'is_left')['Is the cube to the left of the can?'] == 'yes'
  assert asked(plain, 'is_left')['Is the red cube to the right of the blue can?'] == 'no'
  assert asked(plain, 'left_or_right')['Is the blue can left or right of the red mug?'] == 'right'
  assert asked(plain, 'is_in_front')['Is the red cube in front of the red mug?'] == 'yes'
  assert asked(plain, 'is_in_front')['Is the cube behind the mug?'] == 'no'
  assert asked(plain, 'what_is')['What is to the right of the red mug?'] == 'blue can'
  assert asked(plain, 'outermost')['Which object is furthest to the left?'] == 'red cube'
  assert asked(plain, 'outermost')['Which object is nearest to the camera?'] == 'red cube'
  assert asked(plain, 'held') == {'What is the robot holding?': 'nothing'}
  assert asked(plain, 'is_held') == {'Is the robot holding something?': 'no'}
  assert asked(plain, 'drawer')['Is the drawer open or closed?'] == 'closed'
  assert asked(plain, 'where')['Where is the blue can?'] == 'on the table'
  assert asked(plain, 'pose')['Is the can upright or lying down?'] == 'upright'
  assert asked(plain, 'same') == {
      'Do the cube and the mug have the same colour?': 'yes', 'Do the cube and the can have the same colour?': 'no',
      'Do the mug and the can have the same colour?': 'no'}
  assert not asked(plain, 'except')  # there are three
  assert 'Which object is something to drink from?' not in asked(plain, 'category')  # mug or can
  assert asked(plain, 'category')['Which object is something with a handle?'] == 'red mug'
  assert asked(plain, 'category_exists')['Is there something to wipe the table with?'] == 'no'


def test_pointing(plain):
  cells = {thing.name: f'{int(8 * thing.place[0])} {int(8 * thing.place[1])}' for thing in plain.things}
  found = dict(questions.places(plain))
  assert found and all(cells[name] == found[f'the {name}'] for name in cells if f'the {name}' in found)
  assert all(found[f'the {name.split()[1]}'] == cell for name, cell in cells.items() if f'the {name}' in found)


def test_what_is_left_when_one_of_two_is_excluded():
  pair = asked(view(('red cube', 0.60, -0.15), ('red can', 0.50, 0.05)), 'except')
  assert pair['Which object is not the cube?'] == pair['Which object is there except the red cube?'] == 'red can'
  assert not any('one' in question.split() for question in pair)  # both are red
  assert asked(view(('red cube', 0.60, -0.15), ('blue cube', 0.50, 0.05)), 'except')[
      'Which object is not the red one?'] == 'blue cube'


def test_nothing_that_is_doubtful_is_asked():
  level = view(('red cube', 0.50, -0.10), ('blue cube', 0.52, 0.00))
  assert asked(level, 'is_left') and not asked(level, 'is_in_front')
  assert not asked(level, 'colour')  # which cube?
  in_line = view(('red cube', 0.44, 0.00), ('blue cube', 0.58, 0.02))
  assert asked(in_line, 'is_in_front') and not asked(in_line, 'is_left')
  assert {q.split()[-1] for q in asked(in_line, 'outermost')} == {'camera?'}
  with_bowl = view(('red cube', 0.60, -0.15), bowl=(0.5, 0.0))
  assert not {f'How many {c} objects are there?' for c in ('blue', 'green', 'white', 'black')} & set(
      asked(with_bowl, 'count_colour'))
  can = view(('red can', 0.55, -0.1))
  assert 'Is there something to eat?' not in asked(can, 'category_exists')


def test_what_is_hidden_is_not_asked_about():
  """A puck right behind a carton, seen from the front."""
  behind = view(('red carton', 0.56, 0.0), ('blue puck', 0.50, 0.0), ('green ball', 0.5, -0.15))
  assert [t.name for t in behind.things] == ['green ball', 'red carton']
  (kind, colour), = behind.doubtful or [(None, None)]
  assert (kind, colour) == ('puck', 'blue') or behind.hidden == ('blue puck',)
  every = [q for name in questions.TYPES for q in asked(behind, name)]
  assert every and not any('puck' in q for q in every if 'Is there' not in q and 'How many' not in q)
  if kind:
    assert 'Is there a puck?' not in every and 'How many blue objects are there?' not in every


def test_what_the_edge_cuts_off_is_not_clearly_seen():
  cut = view(('red cube', 0.60, -0.15), ('blue can', 0.70, -0.19))
  assert [t.name for t in cut.things] == ['red cube'] and cut.doubtful == (('can', 'blue'),)
  assert 'What colour is the can?' not in asked(cut, 'colour') and not asked(cut, 'outermost')


def test_bowl_and_drawer():
  seen = view(('red ball', 0.5, 0.0), ('blue can', 0.60, -0.18), bowl=(0.5, 0.0), drawer=0.14)
  assert asked(seen, 'where')['Where is the red ball?'] == 'in the bowl'
  assert asked(seen, 'contents') == {'What is in the bowl?': 'red ball', 'What is in the drawer?': 'nothing'}
  assert asked(seen, 'drawer')['Is the drawer open?'] == 'yes'


def test_what_is_held_is_what_the_fingers_hold():
  """Moments of real episodes: the answer is the simulator's."""
  camera, answers = scenes.Camera(RECIPE), collections.Counter()
  for number in range(40):
    _, seen, _ = camera.take(number)
    for _, answer in questions.TYPES['held'](seen):
      assert answer == (seen.held or 'nothing')
      answers['nothing' if answer == 'nothing' else 'something'] += 1
      thing = next((t for t in seen.objects if t.name == answer), None)
      assert thing is None or (thing.where == 'gripper' and thing.position[2] > 0.02)
  assert min(answers['nothing'], answers['something']) > 3


def test_captions_are_so_and_the_wrong_ones_are_not(plain):
  draw = np.random.default_rng(0)
  true = {text for _ in range(60) for text in captions.captions(plain, draw)}
  wrong = {captions.matches(plain, draw)[1] for _ in range(300)}
  assert not true & wrong and len(true) > 30 and len(wrong) > 30
  names = {t.name for t in plain.things}
  pattern = rf'(?:{"|".join(COLOURS)}) (?:{"|".join(KINDS)})'
  for text in true:
    assert set(re.findall(pattern, text)) <= names
    assert not text.startswith('there are') or set(re.findall(pattern, text)) == names
  assert all(set(re.findall(pattern, next(captions.captions(plain, draw)))) == names for _ in range(5))
  assert {'the drawer is closed', 'a blue can standing on the table', 'the robot holds nothing'} < true
  assert 'a red cube to the left of a blue can' in true and 'a red cube to the right of a blue can' in wrong
  assert not any(word in text for text in wrong for word in ('drawer', 'standing', 'lying', 'holds', 'gripper'))


def test_pictures_and_questions_depend_on_seed_and_number_alone(many):
  again = examples.examples(RECIPE, 0, 3)
  assert pickle.dumps(again) == pickle.dumps(many[:3])
  other = scenes.Camera(RECIPE).take(7)[0]
  np.testing.assert_array_equal(other, scenes.Camera(RECIPE).take(7)[0])
  assert examples.examples(scenes.Recipe(6, (64, 64)), 0, 1)[0]['image'] != many[0]['image']


def test_it_covers_what_the_robot_data_lacks(many):
  kinds = {name.split()[-1] for picture in many for name in picture['objects']}
  assert set(UNSEEN_KINDS) < kinds
  texts = ' '.join(p['question'] + ' ' + p['answer'] for picture in many for p in picture['pairs'])
  assert 'something to ' in texts and all(kind in texts for kind in UNSEEN_KINDS)


def test_backgrounds_are_those_of_training_data():
  draw = np.random.default_rng(0)
  for _ in range(30):
    look = scenes._episode(draw).scene.look
    assert look.table in textures.TABLES_SEEN and look.wall in textures.WALLS_SEEN


def test_answers_are_balanced(many):
  given = collections.defaultdict(collections.Counter)
  for picture in many:
    assert {p['kind'] for p in picture['pairs']} <= {'caption', 'vqa', 'match', 'point'}
    for pair in picture['pairs']:
      assert pair['answer'] and bool(pair['question']) == (pair['kind'] != 'caption')
      given[pair['type']][pair['answer']] += 1
  assert given['match']['yes'] == given['match']['no'] > 50
  for name in ('exists', 'is_left', 'is_in_front', 'is_held', 'is_category', 'category_exists', 'left_or_right'):
    (_, most), (_, least) = given[name].most_common()
    assert most - least <= 3, (name, given[name])
  assert set(given) == {*questions.TYPES, 'caption', 'match', 'point'}
  assert len(given['point']) > 20 and given['point'].most_common(1)[0][1] < 0.15 * given['point'].total()


def test_categories():
  assert CATEGORIES['drink'].holds('mug') is True and CATEGORIES['drink'].holds('cube') is False
  assert CATEGORIES['drink'].holds('jar') is None
  with pytest.raises(ValueError, match='members or doubtful'):
    Category('to sit on', ('chair',))


def test_the_command(tmp_path):
  """Interrupted after its first part, it goes on; what it writes is what the pipeline reads."""
  pytest.importorskip('tensorflow', reason="needs the extra 'data'")
  from rtjax.data.image_text.sources import open_source
  raw = Chunks(tmp_path / 'tabletop_qa.raw', examples.CHUNK)
  raw.folder.mkdir()
  before = examples.examples(scenes.Recipe(3, (48, 64)), 0, 6)
  raw.write(0, before)
  command = [sys.executable, FOLDER / 'generate.py', '--out', tmp_path, '--pictures', '6', '--seed', '3',
             '--image-size', '48', '64']
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert 'blind: always the most frequent answer is right in' in done.stdout
  assert not (tmp_path / 'tabletop_qa.raw').exists()
  source = open_source(str(tmp_path / 'tabletop_qa/1.0.0'), 'train')
  pictures = list(source.read(source.chunks(10)))
  assert source.kinds == ('caption', 'vqa', 'match', 'point') and len(pictures) == 6
  assert {p.image: [(pair.kind, pair.target) for pair in p.pairs] for p in pictures} == {  # TFDS mixes the order
      e['image']: [(pair['kind'], pair['answer']) for pair in e['pairs']] for e in before}
  assert open_source(str(tmp_path / 'tabletop_qa'), 'val').num_episodes == 1
  assert source._builder.info.metadata['renderer'] == 'rays' and source._builder.info.metadata['seed'] == 3
  again = subprocess.run(command, capture_output=True, text=True)
  assert again.returncode == 0 and 'is complete already' in again.stdout
  other = subprocess.run([*command, '--seed', '4'], capture_output=True, text=True)
  assert other.returncode != 0 and 'exists already and was made otherwise' in other.stderr
