"""The page of a dataset: its figures, and texts of the data in it."""
import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import robot_logs, tiny_rlds
from helpers.html_page import ParsedPage
from helpers.paths import ROOT

from rtjax import actions
from rtjax.data.convert import __main__ as convert
from rtjax.data.look import __main__ as command
from rtjax.data.look import page, summary
from rtjax.data.rlds import adapters
from rtjax.runtime import serialization

LENGTHS = [3, 7, 5]


def summarize(folder, episodes=2, most=1000, **options):
  options = {'split': 'train', 'action_spec': ''} | options
  return summary.summarize(folder, episodes=episodes, most=most, **options)


def test_figures(tmp_path):
  found = summarize(tiny_rlds.write_lengths(tmp_path, LENGTHS))
  expected = [tiny_rlds.action(i, t) for i, length in enumerate(LENGTHS) for t in range(length)]
  np.testing.assert_array_equal(found.actions, np.array(expected))
  np.testing.assert_array_equal(found.state, [(i, t) for i, length in enumerate(LENGTHS) for t in range(length)])
  assert found.lengths.tolist() == LENGTHS and found.instructions == {f'task {i}': 1 for i in range(3)}
  assert found.spec == actions.ARM_7D and found.cameras == {'image': (8, 10)} and found.splits == {'train': 3}
  assert (found.still.tolist(), found.idle.tolist()) == ([1, 0, 0], [1, 0, 0])
  assert [[step for step, _ in shown.frames['image']] for shown in found.shown] == [[0, 1, 2], [0, 1, 2, 3, 4]]
  assert not [text for text in found.findings if 'zeros' not in text]
  part = summarize(tiny_rlds.write_lengths(tmp_path / 'more', [2] * 30), most=10)
  assert len(part.lengths) == 10 and '10 of the 30 of train' in page.page(part)


def test_findings_are_named_and_kept_out_of_the_figures(tmp_path):
  bad = tiny_rlds.steps(1, 5)
  bad[2]['action'][0], bad[3]['action'][1] = np.nan, 1e30
  bad[4]['language_embedding'] = np.zeros(512, np.float32)
  bad[1]['language_instruction'] = ' '
  found = summarize(tiny_rlds.write(tmp_path, [tiny_rlds.steps(1, 4), bad]))
  assert len(found.findings) == 3
  assert 'episode 1 of \'train\', step 2: action translation[0] is nan (and 1 other numbers)' in found.findings[0]
  assert found.findings[1:] == ['1 episodes have a step without an instruction: number 1',
                                '1 episodes have a step with an embedding of zeros: number 1']
  text = page.page(found)
  figures = re.sub('<h2>Findings.*?</ul>', '', text, flags=re.DOTALL)
  assert not re.search(r'\bnan\b|e\+30|\binf\b', figures) and 'Findings' in text
  ParsedPage(text)


def test_texts_of_the_data_are_escaped(tmp_path):
  evil = '<script>alert(1)</script>"\'&'
  found = summarize(tiny_rlds.write(tmp_path, [tiny_rlds.steps(0, 4, language_instruction=evil)]))
  found.findings.append(evil)
  text = page.page(found)
  assert '<script' not in text
  parsed = ParsedPage(text)
  assert parsed.text.count(evil) == 3  # findings, instructions, heading of the episode
  assert all(source.startswith('data:image/jpeg') for source in parsed.sources) and len(parsed.sources) == 4


def test_a_converted_dataset_with_views_and_paraphrases(tmp_path, monkeypatch, capsys):
  wordings = np.array(['take it', 'lift it'])
  logged = {f'demo_{i}': robot_logs.episode(i, 8) | {'instruction': wordings} for i in range(3)}
  for arrays in logged.values():
    arrays['wrist'] = arrays['images'][:, :6]
  path = robot_logs.write_npz(tmp_path / 'bot', logged)
  monkeypatch.setattr(sys, 'argv', ['convert', str(path), '--out', str(tmp_path), '--views', 'wrist=wrist',
                                    '--paraphrases', '--val-share', '0'])
  convert.main()
  out = tmp_path / 'page.html'
  monkeypatch.setattr(sys, 'argv', ['look', str(tmp_path / 'bot'), '--out', str(out), '--episodes', '2'])
  command.main()
  assert f'3 episodes, 24 steps: {out}' in capsys.readouterr().out
  parsed = ParsedPage(out.read_text())
  assert len(parsed.sources) == 2 * 2 * 8 and 'image 12 × 16, wrist 6 × 16' in parsed.text
  assert 'take it' in parsed.text and 'Episodes' in parsed.text and 'state[6]' in parsed.text


def test_damaged_images_are_findings(tmp_path, monkeypatch):
  monkeypatch.setattr(summary, '_read', lambda dataset, numbers, read=summary._read: _broken(read(dataset, numbers)))
  found = summarize(tiny_rlds.write_lengths(tmp_path, [4]))
  assert "step 2: the image of 'image' cannot be decoded" in found.findings[-1]
  assert len(found.shown[0].frames['image']) == 3
  ParsedPage(page.page(found))


def _broken(episodes):
  for episode in episodes:
    if episode.images.size:
      episode.images[2] = b'no image' if episode.images.ndim == 1 else [b'no image']
    yield episode


def test_wrong_arguments_fail_before_tensorflow_is_imported(tmp_path):
  (tmp_path / 'dataset_info.json').touch()
  code = (f'import sys; from rtjax.data.look.__main__ import look\n'
          f'try: look({str(tmp_path)!r}, __import__("pathlib").Path({str(tmp_path / "no/page.html")!r}))\n'
          f'except FileNotFoundError as error: assert "--out is" in str(error)\n'
          f'else: raise AssertionError\n'
          f'assert "tensorflow" not in sys.modules')
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


def test_own_action_fields_need_their_action_spec(tmp_path, monkeypatch):
  bridge = adapters.get('bridge_dataset')
  own = dataclasses.replace(bridge, action=lambda steps: {'joints': adapters.feature(steps, 'action')})
  monkeypatch.setitem(adapters.ADAPTERS, 'bridge_dataset', own)
  folder = tiny_rlds.write_lengths(tmp_path, LENGTHS)
  with pytest.raises(ValueError, match=r"the fields {'joints': 7}, which no known ActionSpec has.*--action-spec FILE"):
    summarize(folder)
  spec = actions.ActionSpec((actions.ActionField('joints', 7, -1, 1),))
  (tmp_path / 'joints.json').write_text(json.dumps(serialization.to_json(spec)))
  assert summarize(folder, action_spec=str(tmp_path / 'joints.json')).spec == spec
