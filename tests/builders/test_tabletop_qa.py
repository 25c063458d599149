"""Images with questions: answers are true, unambiguous and balanced."""
import collections
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers.paths import ROOT

pytest.importorskip('mujoco', reason="needs the extra 'sim'")

from rtjax.data.generation.item_store import ItemStore
from rtjax.envs.tabletop import reasoning, textures
from rtjax.envs.tabletop.categories import CATEGORIES, Category
from rtjax.envs.tabletop.objects import COLOURS, KINDS, UNSEEN_KINDS, Item
from rtjax.envs.tabletop.scene import Appearance, PlacedObject, Scene
from rtjax.envs.tabletop.world import World

FOLDER = ROOT / 'data/tabletop_qa'
sys.path.insert(0, str(FOLDER))

import captions  # noqa: E402
import examples  # noqa: E402
import questions  # noqa: E402
import scenes  # noqa: E402

CONFIG = scenes.GenerationConfig(seed=5, image_size=(64, 64))


def view(*objects, bowl=None, drawer=0.0):
  """Create the view of standing objects (name, x, y)."""
  placed = []
  for name, x, y in objects:
    colour, kind = name.split()
    placed.append(PlacedObject(Item(kind, colour), (x, y, KINDS[kind].half_height + 0.0005)))
  scene = Scene(tuple(placed), bowl, drawer, Appearance(), (0.42, 0.0, 0.25))
  return scenes.SceneSampler(scenes.GenerationConfig(image_size=(96, 96)))._view(World(scene))


def answers(scene, name):
  """Return {question: answer} of one type."""
  return dict(questions.TYPES[name](scene))


@pytest.fixture(scope='module')
def plain():
  """View of three objects.

  A red cube on the left and near, a blue can on the right, a red mug far behind.
  """
  return view(('red cube', 0.60, -0.15), ('blue can', 0.50, 0.05), ('red mug', 0.38, -0.06))


@pytest.fixture(scope='module')
def many():
  return examples.examples(CONFIG, 0, 60)


def test_visible_objects(plain):
  assert [obj.name for obj in plain.visible] == ['red cube', 'red mug', 'blue can']
  assert not plain.partial and not plain.hidden and plain.held == '' and plain.drawer == 'closed'
  assert {obj.location for obj in plain.visible} == {'table'}


def test_answers_of_each_type(plain):
  assert answers(plain, 'colour') == {
      'What colour is the cube?': 'red', 'What colour is the can?': 'blue', 'What colour is the mug?': 'red'}
  assert answers(plain, 'kind') == {'What is the blue object?': 'can'}  # two objects are red
  exists = answers(plain, 'exists')
  assert exists['Is there a red cube?'] == exists['Is there a mug?'] == 'yes'
  assert exists['Is there a blue cube?'] == exists['Is there a pear?'] == 'no'
  assert answers(plain, 'count_colour') == {
      f'How many {colour} objects are there?': count for colour, count in (
          ('red', '2'), ('orange', '0'), ('yellow', '0'), ('green', '0'), ('blue', '1'), ('purple', '0'))}
  assert answers(plain, 'count_kind')['How many mugs are there?'] == '1'
  assert answers(plain, 'is_left')['Is the cube to the left of the can?'] == 'yes'
  assert answers(plain, 'is_left')['Is the red cube to the right of the blue can?'] == 'no'
  assert answers(plain, 'left_or_right')['Is the blue can left or right of the red mug?'] == 'right'
  assert answers(plain, 'is_in_front')['Is the red cube in front of the red mug?'] == 'yes'
  assert answers(plain, 'is_in_front')['Is the cube behind the mug?'] == 'no'
  assert answers(plain, 'what_is')['What is to the right of the red mug?'] == 'blue can'
  assert answers(plain, 'outermost')['Which object is furthest to the left?'] == 'red cube'
  assert answers(plain, 'outermost')['Which object is nearest to the camera?'] == 'red cube'
  assert answers(plain, 'held') == {'What is the robot holding?': 'nothing'}
  assert answers(plain, 'is_held') == {'Is the robot holding something?': 'no'}
  assert answers(plain, 'drawer')['Is the drawer open or closed?'] == 'closed'
  assert answers(plain, 'where')['Where is the blue can?'] == 'on the table'
  assert answers(plain, 'pose')['Is the can upright or lying down?'] == 'upright'
  assert answers(plain, 'same') == {
      'Do the cube and the mug have the same colour?': 'yes', 'Do the cube and the can have the same colour?': 'no',
      'Do the mug and the can have the same colour?': 'no'}
  assert not answers(plain, 'except')  # with three objects
  assert 'Which object is something to drink from?' not in answers(plain, 'category')  # mug or can
  assert answers(plain, 'category')['Which object is something with a handle?'] == 'red mug'
  assert answers(plain, 'category_exists')['Is there something to wipe the table with?'] == 'no'


def test_pointing_answers_are_grid_cells(plain):
  cells = {obj.name: f'{int(8 * obj.centre[0])} {int(8 * obj.centre[1])}' for obj in plain.visible}
  pointing = dict(questions.pointing(plain))
  assert pointing and all(cells[name] == pointing[f'the {name}'] for name in cells if f'the {name}' in pointing)
  assert all(pointing[f'the {name.split()[1]}'] == cell for name, cell in cells.items() if f'the {name}' in pointing)


def test_descriptions_are_cells_of_one_object(plain):
  cells = {f'{int(8 * obj.centre[0])} {int(8 * obj.centre[1])}': obj.name for obj in plain.visible}
  described = {text: cells[cell] for text, cell in questions.descriptions(plain)}
  expected = {'something with a handle': 'red mug', 'the object to the right of the red mug': 'blue can',
              'the object furthest to the left': 'red cube', 'the thing that is nearest to the camera': 'red cube'}
  assert all(described.get(text, name) == name for text, name in expected.items())
  assert len(expected.keys() & described.keys()) >= 3
  assert not any('drink' in text for text in described)  # mug or can
  two = dict(questions.descriptions(view(('red cube', 0.60, -0.14), ('blue can', 0.49, 0.05))))
  assert two['the object that is not the cube'] == two['the thing other than the red one'] == two[
      'something to drink from']
  animals = questions.descriptions(view(('red duck', 0.60, -0.14), ('blue dinosaur', 0.49, 0.05)))
  assert {text for text, _ in animals} >= {'the extinct animal'} and 'an animal' not in dict(animals)


def test_held_out_wordings_are_in_no_text(many):
  texts = [pair[part] for example in many for pair in example['pairs'] for part in ('question', 'answer')]
  held_out = [wording for category in CATEGORIES.values() for wording in category.held_out]
  held_out += [wording.split(' {')[0] for wording in reasoning.EXCEPT]
  assert not any(wording in text for wording in held_out for text in texts)
  asked = [wording for category in CATEGORIES.values() for wording in category.asked]
  pointed = [pair['question'] for example in many for pair in example['pairs'] if pair['kind'] == 'point']
  assert not set(asked) & set(pointed)
  assert {pair['type'] for example in many for pair in example['pairs'] if pair['kind'] == 'point'} == {
      'point', 'description'}


def test_excluding_one_of_two_objects():
  pair = answers(view(('red cube', 0.60, -0.15), ('red can', 0.50, 0.05)), 'except')
  assert pair['Which object is not the cube?'] == pair['Which object is there except the red cube?'] == 'red can'
  assert not any('one' in question.split() for question in pair)  # both are red
  assert answers(view(('red cube', 0.60, -0.15), ('blue cube', 0.50, 0.05)), 'except')[
      'Which object is not the red one?'] == 'blue cube'


def test_ambiguous_questions_are_left_out():
  level = view(('red cube', 0.50, -0.10), ('blue cube', 0.52, 0.00))
  assert answers(level, 'is_left') and not answers(level, 'is_in_front')
  assert not answers(level, 'colour')  # two cubes
  in_line = view(('red cube', 0.44, 0.00), ('blue cube', 0.58, 0.02))
  assert answers(in_line, 'is_in_front') and not answers(in_line, 'is_left')
  assert {q.split()[-1] for q in answers(in_line, 'outermost')} == {'camera?'}
  with_bowl = view(('red cube', 0.60, -0.15), bowl=(0.5, 0.0))
  assert not {f'How many {c} objects are there?' for c in ('blue', 'green', 'white', 'black')} & set(
      answers(with_bowl, 'count_colour'))
  can = view(('red can', 0.55, -0.1))
  assert 'Is there something to eat?' not in answers(can, 'category_exists')


def test_hidden_objects_are_not_asked_about():
  """A puck right behind a carton, in the front camera."""
  behind = view(('red carton', 0.56, 0.0), ('blue puck', 0.50, 0.0), ('green ball', 0.5, -0.15))
  assert [obj.name for obj in behind.visible] == ['green ball', 'red carton']
  (kind, colour), = behind.partial or [(None, None)]
  assert (kind, colour) == ('puck', 'blue') or behind.hidden == ('blue puck',)
  asked = [q for name in questions.TYPES for q in answers(behind, name)]
  assert asked and not any('puck' in q for q in asked if 'Is there' not in q and 'How many' not in q)
  if kind:
    assert 'Is there a puck?' not in asked and 'How many blue objects are there?' not in asked


def test_objects_at_the_edge_are_partly_visible():
  cut = view(('red cube', 0.60, -0.15), ('blue can', 0.70, -0.19))
  assert [obj.name for obj in cut.visible] == ['red cube'] and cut.partial == (('can', 'blue'),)
  assert 'What colour is the can?' not in answers(cut, 'colour') and not answers(cut, 'outermost')


def test_bowl_and_drawer():
  scene = view(('red ball', 0.5, 0.0), ('blue can', 0.60, -0.18), bowl=(0.5, 0.0), drawer=0.14)
  assert answers(scene, 'where')['Where is the red ball?'] == 'in the bowl'
  assert answers(scene, 'contents') == {'What is in the bowl?': 'red ball', 'What is in the drawer?': 'nothing'}
  assert answers(scene, 'drawer')['Is the drawer open?'] == 'yes'


def test_held_object_agrees_with_the_simulator():
  """Scenes in the middle of episodes."""
  sampler, counts = scenes.SceneSampler(CONFIG), collections.Counter()
  for number in range(40):
    _, scene, _ = sampler.sample(number)
    for _, answer in questions.TYPES['held'](scene):
      assert answer == (scene.held or 'nothing')
      counts['nothing' if answer == 'nothing' else 'something'] += 1
      held = next((obj for obj in scene.objects if obj.name == answer), None)
      assert held is None or (held.location == 'gripper' and held.position[2] > 0.02)
  assert min(counts['nothing'], counts['something']) > 3


def test_captions_are_true_and_false_ones_are_not(plain):
  rng = np.random.default_rng(0)
  true = {text for _ in range(60) for text in captions.captions(plain, rng)}
  false = {captions.matches(plain, rng)[1] for _ in range(300)}
  assert not true & false and len(true) > 30 and len(false) > 30
  names = {obj.name for obj in plain.visible}
  pattern = rf'(?:{"|".join(COLOURS)}) (?:{"|".join(KINDS)})'
  for text in true:
    assert set(re.findall(pattern, text)) <= names
    assert not text.startswith('there are') or set(re.findall(pattern, text)) == names
  assert all(set(re.findall(pattern, next(captions.captions(plain, rng)))) == names for _ in range(5))
  assert {'the drawer is closed', 'a blue can standing on the table', 'the robot holds nothing'} < true
  assert 'a red cube to the left of a blue can' in true and 'a red cube to the right of a blue can' in false
  assert not any(word in text for text in false for word in ('drawer', 'standing', 'lying', 'holds', 'gripper'))


def test_examples_depend_on_seed_and_number_alone(many):
  repeated = examples.examples(CONFIG, 0, 3)
  assert pickle.dumps(repeated) == pickle.dumps(many[:3])
  one, other = (scenes.SceneSampler(CONFIG).sample(7)[0] for _ in range(2))
  np.testing.assert_array_equal(one, other)
  assert examples.examples(scenes.GenerationConfig(6, (64, 64)), 0, 1)[0]['image'] != many[0]['image']


def test_examples_cover_held_out_objects_and_words(many):
  kinds = {name.split()[-1] for example in many for name in example['objects']}
  assert set(UNSEEN_KINDS) < kinds
  texts = ' '.join(p['question'] + ' ' + p['answer'] for example in many for p in example['pairs'])
  assert 'something to ' in texts and all(kind in texts for kind in UNSEEN_KINDS)


def test_backgrounds_are_those_of_training_data():
  rng = np.random.default_rng(0)
  for _ in range(30):
    style = scenes._episode(rng).scene.appearance
    assert style.table in textures.TABLES_SEEN and style.wall in textures.WALLS_SEEN


def test_answers_are_balanced(many):
  counts = collections.defaultdict(collections.Counter)
  for example in many:
    assert {pair['kind'] for pair in example['pairs']} <= set(examples.TASKS)
    for pair in example['pairs']:
      assert pair['answer'] and bool(pair['question']) == (pair['kind'] != 'caption')
      counts[pair['type']][pair['answer']] += 1
  assert counts['match']['yes'] == counts['match']['no'] > 50
  for name in ('exists', 'is_left', 'is_in_front', 'is_held', 'is_category', 'category_exists', 'left_or_right'):
    (_, most), (_, least) = counts[name].most_common()
    assert most - least <= 3, (name, counts[name])
  assert set(counts) == {*questions.TYPES, 'caption', 'match', 'point', 'description'}
  assert len(counts['point']) > 20 and counts['point'].most_common(1)[0][1] < 0.15 * counts['point'].total()


def test_categories_have_members_and_ambiguous_kinds():
  assert CATEGORIES['drink'].contains('mug') is True and CATEGORIES['drink'].contains('cube') is False
  assert CATEGORIES['drink'].contains('jar') is None
  with pytest.raises(ValueError, match='each listed once'):
    Category('to sit on', ('chair',))


# The same command line and store as test_tabletop.py's.
@pytest.mark.slow
def test_command_resumes_and_writes_a_readable_dataset(tmp_path):
  pytest.importorskip('tensorflow', reason="needs the extra 'data'")
  from rtjax.data.image_text.sources import open_source
  raw = ItemStore(tmp_path / 'tabletop_qa.raw', examples.EXAMPLES_PER_FILE)
  raw.folder.mkdir()
  before = examples.examples(scenes.GenerationConfig(3, (48, 64)), 0, 6)
  raw.write(0, before)
  command = [sys.executable, FOLDER / 'generate.py', '--out', tmp_path, '--images', '6', '--seed', '3',
             '--image-size', '48', '64']
  result = subprocess.run(command, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  assert re.search(r'vqa: .*; blind accuracy in val: .*% with the most frequent answer of the task', result.stdout)
  assert not (tmp_path / 'tabletop_qa.raw').exists()
  source = open_source(str(tmp_path / 'tabletop_qa/1.0.0'), 'train')
  images = list(source.read(source.chunks(10)))
  assert source.tasks == ('caption', 'vqa', 'match', 'point') and len(images) == 6
  assert {image.encoded: [(pair.task, pair.target) for pair in image.pairs] for image in images} == {  # TFDS shuffles
      e['image']: [(pair['kind'], pair['answer']) for pair in e['pairs']] for e in before}
  assert open_source(str(tmp_path / 'tabletop_qa'), 'val').num_records == 1
  metadata = source._builder.info.metadata
  assert (metadata['renderer'], metadata['seed'], metadata['grid']) == ('rays', 3, 8)
  repeated = subprocess.run(command, capture_output=True, text=True)
  assert repeated.returncode == 0 and 'is complete already' in repeated.stdout
  other = subprocess.run([*command, '--seed', '4'], capture_output=True, text=True)
  assert other.returncode != 0 and 'exists already with another recipe' in other.stderr
