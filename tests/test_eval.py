"""The command line of eval.py, from a checkpoint to a report."""
import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import image_text_folders, replays, saved_run, tiny_rt2
from helpers.paths import ROOT

import rtjax
from rtjax import actions, models
from rtjax.evaluation.closed_loop import agents
from rtjax.language.tokenizer import Tokenizer
from rtjax.policies.policy import Policy
from rtjax.runtime import cli

SCRIPT = ROOT / 'eval.py'
ENCODER = 'universal-sentence-encoder-large/5'


@pytest.fixture(scope='module')
def model():
  return tiny_model(0)


@pytest.fixture(scope='module')
def run_folder(model, tmp_path_factory):
  return saved_run.save(model, tmp_path_factory.mktemp('run'), ENCODER)


def tiny_model(seed=1):
  return models.build(replays.tiny_config(actions.ARM_7D), seed=seed)


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
  return replays.bridge(tmp_path_factory.mktemp('data'))


@pytest.fixture
def run_eval(monkeypatch, capsys):
  """Function that runs eval.py; returns its exit code and output."""
  def call(*arguments):
    monkeypatch.setattr(sys, 'argv', ['eval.py', *map(str, arguments)])
    code = 0
    try:
      cli.run('rtjax.eval')
    except SystemExit as stop:
      code = stop.code
    return code, capsys.readouterr()
  return call


def test_report_of_a_checkpoint(run_eval, run_folder, model, dataset, tmp_path):
  code, printed = run_eval(run_folder, '--dataset', dataset, '--episodes', 2, '--output', tmp_path)
  assert code == 0
  assert f'Report: {tmp_path / "report.html"}' in printed.out
  report = json.loads((tmp_path / 'report.json').read_text())
  assert report['checkpoint'] == {'path': str(run_folder), 'step': 0}
  assert (report['episodes'], report['dataset']['episodes_in_split'], report['dataset']['split']) == (2, 3, 'val')
  assert f'{report["accuracy"]["policy"]:.1%} of action tokens correct' in printed.out
  assert (tmp_path / 'report.html').read_text().count('class="episode"') == 2

  policy = rtjax.load_policy(run_folder)
  assert policy.metadata.embedding_id == ENCODER
  image, embedding = np.zeros((16, 20, 3), np.uint8), np.ones(512, np.float32)
  outputs = []
  for one in (policy, Policy(model)):
    one.reset(embedding=embedding)
    outputs.append(one.step(image).logits)
  np.testing.assert_array_equal(*outputs)


def test_default_output_folder(run_eval, run_folder, dataset, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  code, _ = run_eval(run_folder, '--dataset', dataset, '--split', 'val[:1]', '--show', 0)
  assert code == 0
  assert (tmp_path / 'reports' / f'{run_folder.name}-bridge_dataset-val_1_' / 'report.html').exists()


@pytest.mark.parametrize(('changed', 'message'), [
    ({'checkpoint': 'nowhere'}, 'no model at nowhere'),
    ({'checkpoint': SCRIPT}, 'eval.py (it is a file): expected an rtjax run'),
    ({'checkpoint': ROOT / 'clients'}, "clients (it holds ['python'])"),
    ({'--dataset': '/nowhere'}, "dataset '/nowhere': no such folder"),
    ({'--dataset': 'bridge_datase'}, "dataset 'bridge_datase': neither a folder nor a TFDS name"),
    ({'--split': 'test'}, "unknown split 'test'"),
    ({'--split': 'val[:0]'}, "split 'val[:0]' is empty"),
    ({'--episodes': '-2'}, '--episodes is -2, it must be at least 0'),
    ({'--show': '-1'}, '--show is -1, it must be at least 0'),
    ({'--output': str(SCRIPT)}, 'eval.py cannot be written'),
])
def test_error_messages(run_eval, run_folder, dataset, tmp_path, changed, message):
  given = {'checkpoint': run_folder, '--dataset': dataset, '--output': tmp_path} | changed
  checkpoint_given = given.pop('checkpoint')
  code, printed = run_eval(checkpoint_given, *(part for pair in given.items() for part in pair))
  assert code == 2
  assert printed.err.strip().splitlines()[-1].startswith('error: ') and message in printed.err
  assert printed.out == ''


def test_actions_that_do_not_fit_the_dataset(run_eval, dataset, tmp_path, monkeypatch):
  spec = rtjax.ActionSpec((rtjax.ActionField('wheels', 2),))
  policy = replays.FakePolicy(spec, np.zeros((9, 2), np.int32))
  monkeypatch.setattr('rtjax.policies.policy.load_policy', lambda path, **_: policy)
  code, printed = run_eval(dataset, '--dataset', dataset, '--output', tmp_path)
  assert code == 2 and "gives no ['wheels'], which the ActionSpec has" in printed.err


@pytest.fixture(scope='module')
def simulated(tmp_path_factory):
  """Checkpoint with the built-in instruction encoder, trained on images of another renderer."""
  pytest.importorskip('mujoco', reason="needs the extra 'sim'")
  statistics = {'some': {'renderer': 'gl', 'episodes': 40}}
  return saved_run.save(tiny_model(), tmp_path_factory.mktemp('run'), 'hashed-ngrams/1', statistics)


SMALL = ('--env', 'tabletop', '--skills', 'open_drawer', 'pick', '--image-size', 16, 16, '--environments', 2)


def test_success_in_the_tabletop(run_eval, simulated, tmp_path):
  with pytest.warns(UserWarning, match="trained on images of the renderer .'gl'."):
    code, printed = run_eval(simulated, *SMALL, '--split', 'seen', '--episodes', 2, '--baseline', 'untrained', 'blind',
                             '--output', tmp_path)
  assert code == 0 and f'Report: {tmp_path / "report.html"}' in printed.out
  report = json.loads((tmp_path / 'report.json').read_text())
  assert [p['name'] for p in report['policies']] == [str(simulated), 'untrained', 'blind']
  mine, untrained, blind = (p['identity'] for p in report['policies'])
  assert (mine['step'], mine['demonstrations']) == (0, 40)
  assert mine['weights'] == blind['weights'] != untrained['weights']
  assert blind['instruction'] and 'drawer' not in blind['instruction']  # an instruction of 'pick'
  assert untrained['instruction'] is None
  for policy in report['policies']:
    assert [(e['skill'], e['seed']) for e in policy['episodes']] == [('pick', 3000000000), ('open_drawer', 3000000001)]
    assert policy['summary']['latency_ms']['p50'] > 0 and 0 < policy['summary']['confidence'] < 1
    assert all(e['failure'] in (None, 'wrong object', 'missed grasp', 'no motion', 'timeout', 'dropped')
               for e in policy['episodes'])
  assert '| untrained |' in (tmp_path / 'report.md').read_text()


@pytest.fixture(scope='module')
def rt2_run(tmp_path_factory):
  """Checkpoint of an RT-2."""
  tiny = tiny_rt2.TINY
  text = dataclasses.replace(tiny.backbone.text, vocab_size=1536, encoder_layers=1, decoder_layers=1)
  config = dataclasses.replace(tiny, action_spec=actions.ARM_7D, action_ids=(), prompt_length=24,
                               backbone=dataclasses.replace(tiny.backbone, text=text))
  tokenizer = Tokenizer()
  model = models.build(config.with_tokenizer(tokenizer), seed=0)
  model.set_tokenizer(tokenizer)
  return saved_run.save(model, tmp_path_factory.mktemp('rt2'), tokenizer.id)


def test_replay_of_a_language_model(run_eval, rt2_run, dataset, tmp_path):
  code, _ = run_eval(rt2_run, '--dataset', dataset, '--episodes', 1, '--output', tmp_path)
  assert code == 0
  report = json.loads((tmp_path / 'report.json').read_text())
  assert report['model']['image_size'] == [16, 16] and report['model']['config']['model'] == 'rt2'
  assert 'rt2, ' in (tmp_path / 'report.html').read_text()


def test_questions_about_images(run_eval, rt2_run, run_folder, tmp_path):
  pytest.importorskip('mujoco', reason="needs the extra 'sim'")
  for split in ('train', 'val'):
    image_text_folders.write_jsonl(tmp_path / 'images', [{'question': 'what is it?', 'answer': 'a cube'}] * 3, split)
  arguments = (rt2_run, *SMALL, '--split', 'reasoning', '--skills', 'pick', '--episodes', 1, '--image-text',
               tmp_path / 'images')
  code, _ = run_eval(*arguments, '--output', tmp_path / 'report')
  assert code == 0
  report = json.loads((tmp_path / 'report/report.json').read_text())
  assert report['policies'][0]['answers']['after']['vqa']['count'] == 3
  assert report['blind_answers']['vqa']['accuracy'] == 1
  assert '## Questions about images' in (tmp_path / 'report/report.md').read_text()
  code, printed = run_eval('expert', *arguments[1:], '--output', tmp_path / 'other')
  assert code == 2 and "['expert'] do not: evaluate an RT-2" in printed.err
  assert not (tmp_path / 'other/episodes.jsonl').exists()


def test_image_size_of_the_training_data(run_eval, tmp_path):
  pytest.importorskip('mujoco', reason="needs the extra 'sim'")
  sizes = {'one': {'renderer': None, 'image_size': [16, 24]}, 'other': {'renderer': None, 'image_size': None}}
  run = saved_run.save(tiny_model(), tmp_path / 'run', 'hashed-ngrams/1', sizes)
  settings = agents.AgentSettings(1)
  assert agents.camera_size(agents.load(str(run), settings)) == (16, 24)
  assert agents.camera_size(agents.load('expert', settings)) == (96, 96)
  code, _ = run_eval(run, '--env', 'tabletop', '--skills', 'pick', '--split', 'seen', '--episodes', 1,
                     '--environments', 1, '--output', tmp_path / 'report')
  assert code == 0
  report = json.loads((tmp_path / 'report/report.json').read_text())
  assert report['protocol']['settings']['image_size'] == [16, 24]
  sizes['other']['image_size'] = [24, 24]
  mixed = saved_run.save(tiny_model(), tmp_path / 'mixed', 'hashed-ngrams/1', sizes)
  with pytest.raises(ValueError, match=r'images of several sizes.*--image-size'):
    agents.camera_size(agents.load(str(mixed), settings))


def test_expert_acts_as_in_one_process(run_eval, tmp_path):
  pytest.importorskip('mujoco', reason="needs the extra 'sim'")
  code, printed = run_eval('expert', *SMALL, '--split', 'seen', 'unseen_objects', '--episodes', 2, '--live',
                           '--output', tmp_path)
  assert code == 0 and '4 of 4 episodes' in printed.out and printed.out.startswith('Live: http://127.0.0.1:')
  for report in json.loads((tmp_path / 'report.json').read_text())['policies'][0]['episodes']:
    env = rtjax.envs.make('tabletop', split=report['split'], image_size=(8, 8))
    _, info = env.reset(seed=report['seed'], options={'skill': report['skill']})
    expert, steps, ended = env.expert(), 0, False
    while not ended:
      *_, terminated, truncated, info = env.step(expert(env.state))
      steps, ended = steps + 1, terminated or truncated
    env.close()
    assert (report['instruction'], report['task'], report['success'], report['steps']) == (
        info['instruction'], info['task'], info['success'], steps)


@pytest.mark.parametrize(('arguments', 'message'), [
    (('--env', 'tabeltop'),
     "unknown environment 'tabeltop', expected one of ['language_table', 'libero', 'metaworld', 'tabletop']. Did"),
    (('--env', 'tabletop', '--split', 'sen'), "Did you mean 'seen'?"),
    (('--env', 'tabletop', '--skills', 'pik'), "unknown skill 'pik'"),
    (('--env', 'tabletop', '--split', 'distractors_many', '--skills', 'knock'), "have none of the skills ['knock']"),
    (('--env', 'tabletop', '--renderer', 'ray'), "Did you mean 'rays'?"),
    (('--env', 'tabletop', '--threshold', '2'), '--threshold is 2.0'),
    ((), 'give either --env'), (('--env', 'tabletop', '--dataset', 'x'), 'give either --env'),
    (('--dataset', 'x', '--baseline', 'blind'), '--dataset replays one split and takes no --baseline'),
    (('--dataset', 'x', '--split', 'a', 'b'), '--dataset replays one split'),
    (('--dataset', 'x', '--live'), '--live is for --env'),
])
def test_error_messages_with_an_environment(run_eval, tmp_path, arguments, message):
  pytest.importorskip('mujoco', reason="needs the extra 'sim'")
  code, printed = run_eval('expert', *arguments, '--output', tmp_path)
  assert code == 2 and message in printed.err and printed.err.count('\n') == 1


def test_log_of_another_program(run_eval, tmp_path):
  log = tmp_path / 'simpler.jsonl'
  lines = [{'env': 'simpler', 'policy': 'mine', 'control_hz': 3, 'max_steps': 80},
           {'split': 'seen', 'skill': 'pick', 'seed': 0, 'success': True, 'steps': 9}]
  log.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  code, printed = run_eval(log, '--output', tmp_path / 'out')
  assert code == 0 and printed.out.startswith('mine: 1 of 1 episodes, 100.0')
  assert (tmp_path / 'out' / 'report.html').exists()
  code, printed = run_eval(log, '--env', 'tabletop', '--output', tmp_path / 'out')
  assert code == 2 and 'leave out --env' in printed.err


def test_checkpoint_that_does_not_fit_the_environment(run_eval, tmp_path):
  pytest.importorskip('mujoco', reason="needs the extra 'sim'")
  wheels = rtjax.ActionSpec((rtjax.ActionField('wheels', 2, -1.0, 1.0),))
  model = models.build(replays.tiny_config(wheels), seed=0)
  folder = saved_run.save(model, tmp_path / 'run', 'hashed-ngrams/1')
  code, printed = run_eval(folder, *SMALL, '--output', tmp_path / 'out')
  assert code == 2 and "are wheels [2], those of the environment 'tabletop' are translation [3] m" in printed.err


def test_unknown_flag_suggests_the_nearest(run_eval, run_folder, dataset):
  code, printed = run_eval(run_folder, '--dataset', dataset, '--epsodes', 3)
  assert code == 2 and '--episodes' in printed.err


def test_help_imports_little_and_errors_are_one_line():
  """Run both in separate processes."""
  script = ('import runpy, sys\nsys.argv = ["eval.py", "--help"]\n'
            f'try:\n  runpy.run_path({str(SCRIPT)!r}, run_name="__main__")\n'
            'finally:\n  assert "tensorflow" not in sys.modules and "orbax" not in sys.modules')
  shown = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True).stdout
  assert all(word in shown for word in ('CHECKPOINT', '--dataset', '--split', '--episodes', '--show', '--output'))
  arguments = [sys.executable, SCRIPT, 'nowhere', '--dataset', 'x', '--show', '-1']
  failed = subprocess.run(arguments, capture_output=True, text=True, check=False)
  assert failed.returncode == 2 and failed.stderr == 'error: --show is -1, it must be at least 0.\n'
