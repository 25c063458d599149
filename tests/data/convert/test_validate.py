"""Validator: each problem of a log, and its message."""
import io

import h5py
import numpy as np
import pytest
from helpers import robot_logs
from rich.console import Console

from rtjax import actions
from rtjax.data.convert import logs, validate
from rtjax.data.convert.options import Options


def findings(path, **changed):
  options = Options(logs=path, **changed)
  return validate.validate(logs.find_logs(path, options.action), options, options.spec()).findings


def check(folder, arrays, **changed):
  """Return the findings of an episode beside a good one."""
  robot_logs.write_npz(folder, {'good': robot_logs.episode(0), 'other': arrays})
  return [(f.level, f.kind, f.text) for f in findings(folder, **changed) if f.episode == 'other']


def changed(**parts):
  return robot_logs.episode(1) | parts


GOOD = robot_logs.episode(1)
ACTION, IMAGES, TIMES = GOOD['action'], GOOD['images'], GOOD['timestamp']
NAN, JUMP, BACK, FEW_BEYOND = ACTION.copy(), TIMES.copy(), TIMES.copy(), ACTION.copy()
NAN[3, 2] = np.nan
ABSURD = ACTION.copy()
ABSURD[4, 6] = 1e30
GROUPED = ACTION.astype('U20')
GROUPED[2, 1] = '1_0'
JUMP[3:] += 0.4
BACK[3] = BACK[1]
FEW_BEYOND[2, 0] = 0.07
STUCK = np.concatenate([IMAGES[:2], np.repeat(IMAGES[2:3], 4, 0)])
SHORT = {key: value if isinstance(value, str) else value[:1] for key, value in GOOD.items()}

CASES = {
    'lengths': (changed(action=ACTION[:-1]), 'error', 'lengths differ', '6 of --image, 5 of --action'),
    'nan': (changed(action=NAN), 'error', 'not finite', "'nan' at step 3, number 2"),
    'text for numbers': (changed(action=np.full((6, 7), 'x')), 'error', 'not finite', "'x' at step 0, number 0"),
    'digits in groups': (changed(action=GROUPED), 'error', 'not finite', "'1_0' at step 2, number 1"),
    'too few numbers': (changed(action=ACTION[:, :6]), 'error', 'wrong numbers', "6 numbers.*'arm7d' 7"),
    'not a table': (changed(action=np.zeros((6, 7, 1))), 'error', 'wrong numbers', r'float64 \[6, 7, 1\]'),
    'float images': (changed(images=IMAGES / 255), 'error', 'wrong images', 'float64.*Multiply by 255'),
    'channels first': (changed(images=IMAGES.transpose(0, 3, 1, 2)), 'error', 'wrong images', r'\(0, 2, 3, 1\)'),
    'grey': (changed(images=IMAGES[..., 0]), 'warning', 'images converted', 'image: grey.*three times'),
    'other size': (changed(images=IMAGES[:, :8]), 'error', 'image sizes', r'\(8, 16\).*\(12, 16\)'),
    'other state': (changed(state=np.ones((6, 3))), 'error', 'state sizes', '3 numbers, in the first episode 7'),
    'millimetres': (changed(
        action=ACTION * np.array([1000] * 3 + [1] * 4)), 'error', 'translation far too large',
        r'millimetres \(--translation-unit mm\)'),
    'degrees': (changed(action=ACTION * np.array([1] * 3 + [300] * 3 + [1])), 'error', 'rotation far too large',
                r'degrees \(--rotation-unit deg\)'),
    'normalised': (changed(action=np.sign(ACTION) * np.array([1] * 3 + [0] * 3 + [1])), 'error',
                   'translation far too large', "a controller's -1 to 1"),
    'a slip': (changed(action=FEW_BEYOND), 'warning', 'translation out of bounds', r'translation\[0\] reaches 0.07'),
    'gripper in other units': (changed(action=ACTION * np.array([1] * 6 + [255])), 'error', 'gripper range',
                                      '0 to 255.*--gripper-range'),
    'constant gripper': (changed(action=ACTION * np.array([1] * 6 + [0])), 'warning', 'constant gripper',
                         'is 0 in every'),
    'uneven': (changed(timestamp=JUMP), 'warning', 'uneven steps', 'steps 2 and 3 is 0.6, usually 0.2'),
    'out of order': (changed(timestamp=BACK), 'error', 'time not increasing', 'at step 3'),
    'empty instruction': (changed(instruction=' '), 'error', 'empty instruction', '--task'),
    'number as instruction': (changed(instruction=7), 'error', 'wrong instruction', 'int64'),
    'empty paraphrase': (changed(instruction=np.array(['take it', ' '])), 'error', 'empty instruction',
                         'at paraphrase 1'),
    'several instructions': (changed(instruction=np.array(['take it', 'lift it'])), 'error', 'lengths differ',
                             '2 of --instruction.*add --paraphrases'),
    'one instruction a step': (changed(instruction=np.array([f'take {i}' for i in range(6)])), 'warning',
                               'instructions differ', 'add --paraphrases'),
    'a scalar as images': (changed(images=np.uint8(7)), 'error', 'wrong images', r'uint8 \[\]'),
    'empty': ({key: value if isinstance(value, str) else value[:0] for key, value in GOOD.items()}, 'warning',
              'empty episode', 'left out: it has no step'),
    'empty lists': (changed(images=[], action=[], state=[], timestamp=[]), 'warning', 'empty episode', 'left out'),
    'too short': (SHORT, 'warning', 'empty episode', 'steps with an action: 1,'),
    'absurd action': (changed(action=ABSURD), 'error', 'absurd number', r"'1e\+30' at step 4, number 6.*below 1e\+10"),
    'absurd state': (changed(state=np.full((6, 7), -1e30)), 'error', 'absurd number', 'state is .*at step 0, number 0'),
    'infinite state': (changed(state=np.full((6, 7), np.inf)), 'error', 'not finite', 'and at 41 other positions'),
    'stuck': (changed(images=np.repeat(IMAGES[:1], 6, 0)), 'error', 'camera stuck', 'all 6'),
    'repeats': (changed(images=STUCK), 'warning', 'images repeat', 'images 2 to 5'),
    'missing': ({k if k != 'action' else 'actoin': v for k, v in GOOD.items()}, 'error', 'missing entry',
                "no 'action', the entries are actoin, images.*Did you mean 'actoin'.*--action"),
    'objects': (changed(action=np.array([None] * 6)), 'error', 'object array', r"'action' is .*np\.stack\(list\)")}


@pytest.mark.parametrize('case', CASES)
def test_problems_are_reported(case, tmp_path):
  arrays, level, kind, words = CASES[case]
  found = check(tmp_path, arrays, paraphrases='paraphrase' in case)
  assert [f[:2] for f in found] == [(level, kind)], found
  with pytest.raises(ValueError, match=words):
    raise ValueError(found[0][2])


def test_valid_episodes_and_other_units(tmp_path):
  assert check(tmp_path / 'good', GOOD) == []
  scale = np.array([1000] * 3 + [180 / np.pi] * 3 + [1])
  robot_logs.write_npz(tmp_path / 'mm', {'a': changed(action=ACTION * scale)})
  assert findings(tmp_path / 'mm', translation_unit='mm', rotation_unit='deg') == []


def test_findings_of_all_episodes(tmp_path):
  action = ACTION.copy()
  action[:, 3] = 0
  action[:, 6] *= 0.08
  robot_logs.write_npz(tmp_path, {'a': changed(action=action), 'b': changed(action=action)})
  texts = [(f.kind, f.episode, f.text) for f in findings(tmp_path)]
  assert [t[:2] for t in texts] == [('constant number', ''), ('gripper range', '')]
  assert texts[0][2].startswith('rotation[0] never changes') and '--gripper-range 0 0.08' in texts[1][2]


def test_outliers_are_no_matter_of_units(tmp_path):
  action = robot_logs.episode(1, 20)['action']
  action[3, 0] = 4.0
  (found,) = check(tmp_path, robot_logs.episode(1, 20) | {'action': action})
  assert found[:2] == ('error', 'translation has outliers') and 'millimetres' not in found[2]
  assert 'translation[0] reaches 4,' in found[2] and '1 of 20, the first is 3. Fix or remove the episode.' in found[2]


def test_absurd_numbers_are_named(tmp_path):
  """Numbers far beyond all others, yet below the bound of 1e10."""
  logged = {name: robot_logs.episode(i, 60) for i, name in enumerate('ab')}
  logged['b']['action'][7, 4], logged['b']['state'][9, 2] = 3e7, -2e8
  robot_logs.write_npz(tmp_path, logged)
  texts = [f.text for f in findings(tmp_path) if f.kind == 'absurd number']
  assert len(texts) == 2 and texts[0].startswith('action rotation[1] is 3e+07 in episode b, step 7, and ')
  assert texts[1].startswith('state[2] is -2e+08 in episode b, step 9, and ')


def test_idle_steps_are_counted(tmp_path):
  """Still, with the gripper as before; a drift below half a bin is idle too."""
  action = ACTION.copy()
  action[1:4, :6] = [[0] * 6, [0.0001, 0, 0, 0, 0.0005, 0], [0, 0, 0, 0.001, 0, 0]]
  action[:, 6] = [0, 0, 0, 0, 0, 1]
  path = robot_logs.write_npz(tmp_path, {'a': changed(action=action)})
  (warning,) = findings(path)
  assert warning.kind == 'idle steps' and warning.text.startswith('2 of 6 steps (33.3%) do not move')
  assert '2 (33.3%) do nothing' in warning.text and 'leave these out with --drop-idle' in warning.text
  (warning,) = findings(path, drop_idle=True)
  assert 'These are left out' in warning.text
  action[:, 6] = np.arange(6) % 2
  robot_logs.write_npz(path, {'a': changed(action=action)})
  (warning,) = findings(path)
  assert '0 (0.0%) do nothing' in warning.text  # since the gripper moves
  action[:, :6], action[:, 6] = 0, 1
  robot_logs.write_npz(path, {'a': changed(action=action), 'b': GOOD})
  (warning,) = [f for f in findings(path, drop_idle=True) if f.episode == 'a' and f.kind == 'empty episode']
  assert warning.text == 'left out: 6 of its 6 steps do nothing.'


def test_views_are_checked(tmp_path):
  robot_logs.write_npz(tmp_path, {'a': changed(wrist=IMAGES[:, :8]), 'b': changed(wrist=IMAGES)})
  (error,) = findings(tmp_path, views=('wrist=wrist',))
  assert error.text.startswith('wrist 0 is (12, 16) (height, width), the first of all (8, 16)')
  robot_logs.write_npz(tmp_path, {'b': changed(wrist=IMAGES[:4, :8])})
  (error,) = findings(tmp_path, views=('wrist=wrist',))
  assert error.text.startswith('steps: 6 of --image, 4 of --views wrist, 6 of --action')


def test_damaged_files(tmp_path):
  file = robot_logs.write_npz(tmp_path / 'n', {'a': GOOD, 'b': GOOD}) / 'b.npz'
  file.write_bytes(file.read_bytes()[:-200])
  robot_logs.write_hdf5(tmp_path / 'h', {'a': GOOD, 'b': GOOD})
  (tmp_path / 'h/b.hdf5').write_bytes((tmp_path / 'h/b.hdf5').read_bytes()[:3000])
  hdf5 = {'image': 'observations/images/front', 'instruction': '@task', 'state': 'observations/pose'}
  for found in (findings(tmp_path / 'n'), findings(tmp_path / 'h', **hdf5)):
    assert [(f.level, f.kind, f.episode) for f in found] == [('error', 'unreadable', 'b')]
    assert 'cannot be read' in found[0].text


def test_folders(tmp_path):
  path = robot_logs.write_folders(tmp_path, {name: GOOD for name in 'abcde'})
  rows = (path / 'b/steps.csv').read_text().splitlines()
  (path / 'b/steps.csv').write_text('\n'.join([*rows[:-1], rows[-1][:20]]))
  (path / 'c/steps.csv').unlink()
  image = path / 'd/000002.png'
  image.write_bytes(image.read_bytes()[:-300])
  (path / 'e/000005.png').unlink()
  found = {f.episode: (f.kind, f.text) for f in findings(path)}
  assert {name: kind for name, (kind, _) in found.items()} == {
      'b': 'unreadable', 'c': 'missing entry', 'd': 'unreadable', 'e': 'lengths differ'}
  assert 'step 5: ' in found['b'][1] and 'no steps.csv' in found['c'][1] and '5 of --image' in found['e'][1]
  (path / 'e/000005.png').write_bytes((path / 'e/000004.png').read_bytes())
  (path / 'e/steps.csv').write_text((path / 'e/steps.csv').read_text().replace('action_x', 'x'))
  (text,) = [f.text for f in findings(path, action='action_z,action_x') if f.episode == 'e']
  assert "there is no 'action_x', the entries are x, action_y" in text


def test_a_group_without_an_entry_is_reported(tmp_path):
  lacking = robot_logs.write_hdf5_groups(tmp_path / 'g.h5', {'demo_0': GOOD, 'demo_2': GOOD, 'demo_10': GOOD})
  with h5py.File(lacking, 'r+') as file:
    del file['data/demo_2/actions']
  found = logs.find_logs(lacking, 'actions')
  assert [log.name for log in found] == ['demo_0', 'demo_2', 'demo_10']
  keys = {'image': 'obs/front', 'instruction': 'language', 'action': 'actions', 'state': 'obs/pose'}
  assert [(f.kind, f.episode) for f in findings(lacking, **keys)] == [('missing entry', 'demo_2')]


def test_the_table_groups_and_shows_brackets(tmp_path):
  far = changed(action=ACTION * np.array([1000] * 3 + [1] * 4))
  path = robot_logs.write_npz(tmp_path, {name: far for name in 'abcde'} | {'f': changed(timestamp=JUMP)})
  report = validate.validate(logs.find_logs(path, 'action'), Options(logs=path), actions.ARM_7D)
  output = io.StringIO()
  Console(file=output, width=200).print(report.table())
  (error,) = [line for line in output.getvalue().splitlines() if 'error' in line]
  assert '5: a, b, c, ...' in error and 'translation[' in error
  assert (report.count('error'), report.count('warning')) == (5, 1)


def test_report_of_valid_episodes(tmp_path):
  episodes = {f'demo_{number}': robot_logs.episode(number, 4 + number % 3) for number in range(11)}
  path = robot_logs.write_npz(tmp_path, episodes)
  report = validate.validate(logs.find_logs(path, 'action'), Options(logs=path), actions.ARM_7D)
  assert report.findings == [] and report.image_sizes == {'image': (12, 16)} and report.state == 7
  assert report.lengths == {name: len(arrays['action']) for name, arrays in episodes.items()}
  assert list(report.lengths) == [f'demo_{number}' for number in range(11)]
  np.testing.assert_allclose(report.period, 0.2)
