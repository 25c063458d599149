"""The command line of eval.py, from a checkpoint to a report."""
import dataclasses
import importlib.util
import json
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import image_text_folders, replays, tiny_rt2
from helpers.paths import ROOT

import rtjax
from rtjax import actions, models
from rtjax.evaluation.closed_loop import evaluator
from rtjax.language.tokenizer import Tokenizer
from rtjax.models import vocabulary
from rtjax.policies.policy import Policy
from rtjax.runtime import cli
from rtjax.training import checkpoint, state
from rtjax.training.config import TrainConfig

SCRIPT = ROOT / 'eval.py'
ENCODER = 'universal-sentence-encoder-large/5'


@pytest.fixture(scope='module')
def model():
  return models.build(replays.network(actions.ARM_7D), rngs=nnx.Rngs(0))


@pytest.fixture(scope='module')
def run_folder(model, tmp_path_factory):
  """A checkpoint as train.py leaves it."""
  return saved_run(model, tmp_path_factory.mktemp('run'), ENCODER)


def saved_run(model, folder, encoder, statistics=(), **metadata):
  _, *trees = state.split(model)
  saved = state.create(*trees, jax.random.key(0), optimizer=optax.adam(1e-4), ema=False)
  with checkpoint.Checkpoints(folder) as checkpoints:
    checkpoints.save(saved, metadata | {'config': model.config.to_dict(), 'train': TrainConfig().to_dict(),
                                        'statistics': dict(statistics), 'embedding_id': encoder, 'data': [],
                                        'metrics': {}})
  return folder


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
  return replays.bridge(tmp_path_factory.mktemp('data'))


@pytest.fixture
def evaluate(monkeypatch, capsys):
  """Calls eval.py's main with some arguments; returns its exit code and what it printed."""
  spec = importlib.util.spec_from_file_location('eval_script', SCRIPT)
  module = importlib.util.module_from_spec(spec)
  monkeypatch.setitem(sys.modules, 'eval_script', module)
  spec.loader.exec_module(module)

  def call(*arguments):
    monkeypatch.setattr(sys, 'argv', ['eval.py', *map(str, arguments)])
    code = 0
    try:
      cli.run(module.main)
    except SystemExit as stop:
      code = stop.code
    return code, capsys.readouterr()
  return call


def test_report_of_a_checkpoint(evaluate, run_folder, model, dataset, tmp_path):
  code, printed = evaluate(run_folder, '--dataset', dataset, '--episodes', 2, '--output', tmp_path)
  assert code == 0
  assert f'Report: {tmp_path / "report.html"}' in printed.out
  found = json.loads((tmp_path / 'report.json').read_text())
  assert found['checkpoint'] == {'path': str(run_folder), 'step': 0}
  assert (found['episodes'], found['dataset']['episodes_in_split'], found['dataset']['split']) == (2, 3, 'val')
  assert f'{found["accuracy"]["policy"]:.1%} of action tokens right' in printed.out
  assert (tmp_path / 'report.html').read_text().count('class="episode"') == 2

  policy = rtjax.load_policy(run_folder)
  assert policy.embedding_id == ENCODER
  image, embedding = np.zeros((16, 20, 3), np.uint8), np.ones(512, np.float32)
  outputs = []
  for one in (policy, Policy(model)):
    one.reset(embedding=embedding)
    outputs.append(one.step(image).logits)
  np.testing.assert_array_equal(*outputs)


def test_folder_is_named_after_what_is_judged(evaluate, run_folder, dataset, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  code, _ = evaluate(run_folder, '--dataset', dataset, '--split', 'val[:1]', '--show', 0)
  assert code == 0
  assert (tmp_path / 'reports' / f'{run_folder.name}-bridge_dataset-val_1_' / 'report.html').exists()


@pytest.mark.parametrize(('changed', 'message'), [
    ({'checkpoint': 'nowhere'}, 'no model at nowhere'),
    ({'checkpoint': SCRIPT}, 'eval.py (it is a file): expected an rtjax run'),
    ({'checkpoint': SCRIPT.parent / 'docs'}, "docs (it holds ['at_the_robot.md', "),
    ({'--dataset': '/nowhere'}, "dataset '/nowhere': no such folder"),
    ({'--dataset': 'bridge_datase'}, "dataset 'bridge_datase': neither a folder nor a TFDS name"),
    ({'--split': 'test'}, "split 'test' cannot be had"),
    ({'--split': 'val[:0]'}, "split 'val[:0]' is empty"),
    ({'--episodes': '-2'}, '--episodes is -2, it must be at least 0'),
    ({'--show': '-1'}, '--show is -1, it must be at least 0'),
    ({'--output': str(SCRIPT)}, 'eval.py cannot be written'),
])
def test_mistakes_are_explained(evaluate, run_folder, dataset, tmp_path, changed, message):
  given = {'checkpoint': run_folder, '--dataset': dataset, '--output': tmp_path} | changed
  checkpoint_given = given.pop('checkpoint')
  code, printed = evaluate(checkpoint_given, *(part for pair in given.items() for part in pair))
  assert code == 2
  assert printed.err.strip().splitlines()[-1].startswith('error: ') and message in printed.err
  assert printed.out == ''


def test_actions_that_do_not_fit_the_dataset(evaluate, dataset, tmp_path, monkeypatch):
  spec = rtjax.ActionSpec((rtjax.ActionField('wheels', 2),))
  policy = replays.FakePolicy(spec, np.zeros((9, 2), np.int32))
  monkeypatch.setattr('rtjax.policies.policy.load_policy', lambda path: policy)
  code, printed = evaluate('some', '--dataset', dataset, '--output', tmp_path)
  assert code == 2 and "gives no ['wheels'], which the ActionSpec has" in printed.err


@pytest.fixture(scope='module')
def simulated(tmp_path_factory):
  """A checkpoint that reads words, trained on pictures of another renderer."""
  pytest.importorskip('mujoco', reason="needs the extra 'sim'")
  statistics = {'some': {'renderer': 'gl', 'episodes': 40}}
  return saved_run(models.build(replays.network(actions.ARM_7D), rngs=nnx.Rngs(1)), tmp_path_factory.mktemp('run'),
                   'hashed-ngrams/1', statistics)


SMALL = ('--env', 'tabletop', '--skills', 'open_drawer', 'pick', '--image-size', 16, 16, '--environments', 2)


def test_success_in_the_tabletop(evaluate, simulated, tmp_path):
  with pytest.warns(UserWarning, match="trained on pictures by the renderer .'gl'."):
    code, printed = evaluate(simulated, *SMALL, '--split', 'seen', '--episodes', 2, '--baseline', 'untrained', 'blind',
                             '--output', tmp_path)
  assert code == 0 and f'Report: {tmp_path / "report.html"}' in printed.out
  found = json.loads((tmp_path / 'report.json').read_text())
  assert [p['name'] for p in found['policies']] == [str(simulated), 'untrained', 'blind']
  mine, untrained, blind = (p['identity'] for p in found['policies'])
  assert (mine['step'], mine['demonstrations']) == (0, 40)
  assert mine['weights'] == blind['weights'] != untrained['weights']
  assert blind['told'] and 'drawer' not in blind['told'] and untrained['told'] is None  # a sentence of 'pick'
  for policy in found['policies']:
    assert [(e['skill'], e['seed']) for e in policy['episodes']] == [('pick', 3000000000), ('open_drawer', 3000000001)]
    assert policy['summary']['latency_ms']['p50'] > 0 and 0 < policy['summary']['confidence'] < 1
    assert all(e['failure'] in (None, 'wrong object', 'missed grasp', 'no motion', 'timeout', 'dropped')
               for e in policy['episodes'])
  assert '| untrained |' in (tmp_path / 'report.md').read_text()


@pytest.fixture(scope='module')
def talker(tmp_path_factory):
  """A checkpoint of an RT-2."""
  config = dataclasses.replace(
      tiny_rt2.TINY, action_spec=actions.ARM_7D, action_ids=(), prompt_length=24,
      text=dataclasses.replace(tiny_rt2.TINY.text, vocab_size=1536, encoder_layers=1, decoder_layers=1))
  tokenizer = Tokenizer()
  model = models.build(vocabulary.fitted(config, tokenizer), rngs=nnx.Rngs(0))
  return saved_run(model, tmp_path_factory.mktemp('talker'), tokenizer.id, vocabulary=vocabulary.stored(tokenizer))


def test_a_network_with_language_is_replayed(evaluate, talker, dataset, tmp_path):
  code, _ = evaluate(talker, '--dataset', dataset, '--episodes', 1, '--output', tmp_path)
  assert code == 0
  found = json.loads((tmp_path / 'report.json').read_text())
  assert found['model']['image_size'] == [16, 16] and found['model']['config']['model'] == 'rt2'
  assert 'rt2, ' in (tmp_path / 'report.html').read_text()


def test_answers_are_judged_beside_success(evaluate, talker, run_folder, tmp_path):
  pytest.importorskip('mujoco', reason="needs the extra 'sim'")
  for split in ('train', 'val'):
    image_text_folders.write_jsonl(tmp_path / 'pictures', [{'question': 'what is it?', 'answer': 'a cube'}] * 3, split)
  arguments = (talker, *SMALL, '--split', 'reasoning', '--skills', 'pick', '--episodes', 1, '--image-text',
               tmp_path / 'pictures')
  code, _ = evaluate(*arguments, '--output', tmp_path / 'report')
  assert code == 0
  found = json.loads((tmp_path / 'report/report.json').read_text())
  assert found['policies'][0]['answers']['after']['vqa']['count'] == 3
  assert found['blind_answers']['vqa']['accuracy'] == 1
  assert '## Answers about pictures' in (tmp_path / 'report/report.md').read_text()
  code, printed = evaluate('expert', *arguments[1:], '--output', tmp_path / 'other')
  assert code == 2 and "['expert'] have no language: judge an RT-2" in printed.err
  assert not (tmp_path / 'other/episodes.jsonl').exists()


def test_pictures_are_of_the_size_that_it_was_trained_on(evaluate, tmp_path):
  pytest.importorskip('mujoco', reason="needs the extra 'sim'")
  sizes = {'one': {'renderer': None, 'picture': [16, 24]}, 'other': {'renderer': None, 'picture': None}}
  run = saved_run(models.build(replays.network(actions.ARM_7D), rngs=nnx.Rngs(1)), tmp_path / 'run', 'hashed-ngrams/1',
                  sizes)
  assert evaluator.picture_size(str(run)) == (16, 24)
  assert evaluator.picture_size('expert') is None
  code, _ = evaluate(run, '--env', 'tabletop', '--skills', 'pick', '--split', 'seen', '--episodes', 1,
                     '--environments', 1, '--output', tmp_path / 'report')
  assert code == 0
  found = json.loads((tmp_path / 'report/report.json').read_text())
  assert found['protocol']['settings']['image_size'] == [16, 24]
  sizes['other']['picture'] = [24, 24]
  mixed = saved_run(models.build(replays.network(actions.ARM_7D), rngs=nnx.Rngs(1)), tmp_path / 'mixed',
                    'hashed-ngrams/1', sizes)
  with pytest.raises(ValueError, match=r'pictures of several sizes.*--image-size'):
    evaluator.picture_size(str(mixed))


def test_expert_does_as_in_one_process(evaluate, tmp_path):
  pytest.importorskip('mujoco', reason="needs the extra 'sim'")
  code, printed = evaluate('expert', *SMALL, '--split', 'seen', 'unseen_objects', '--episodes', 2, '--output', tmp_path)
  assert code == 0 and '4 of 4 episodes' in printed.out
  for found in json.loads((tmp_path / 'report.json').read_text())['policies'][0]['episodes']:
    env = rtjax.envs.make('tabletop', split=found['split'], image_size=(8, 8))
    _, info = env.reset(seed=found['seed'], options={'skill': found['skill']})
    expert, steps, ended = env.expert(), 0, False
    while not ended:
      *_, terminated, truncated, info = env.step(expert(env.state))
      steps, ended = steps + 1, terminated or truncated
    env.close()
    assert (found['instruction'], found['task'], found['success'], found['steps']) == (
        info['instruction'], info['task'], info['success'], steps)


@pytest.mark.parametrize(('arguments', 'message'), [
    (('--env', 'tabeltop'), "unknown environment 'tabeltop', expected one of ['metaworld', 'tabletop']. Did you mean"),
    (('--env', 'tabletop', '--split', 'sen'), "Did you mean 'seen'?"),
    (('--env', 'tabletop', '--skills', 'pik'), "unknown skill 'pik'"),
    (('--env', 'tabletop', '--split', 'distractors_many', '--skills', 'knock'), "have none of the skills ['knock']"),
    (('--env', 'tabletop', '--renderer', 'ray'), "Did you mean 'rays'?"),
    (('--env', 'tabletop', '--threshold', '2'), '--threshold is 2.0'),
    ((), 'give either --env'), (('--env', 'tabletop', '--dataset', 'x'), 'give either --env'),
    (('--dataset', 'x', '--baseline', 'blind'), '--dataset replays one split and takes no --baseline'),
    (('--dataset', 'x', '--split', 'a', 'b'), '--dataset replays one split'),
])
def test_mistakes_with_an_environment(evaluate, tmp_path, arguments, message):
  pytest.importorskip('mujoco', reason="needs the extra 'sim'")
  code, printed = evaluate('expert', *arguments, '--output', tmp_path)
  assert code == 2 and message in printed.err and printed.err.count('\n') == 1


def test_log_of_another_program(evaluate, tmp_path):
  log = tmp_path / 'simpler.jsonl'
  lines = [{'env': 'simpler', 'policy': 'mine', 'control_hz': 3, 'max_steps': 80},
           {'split': 'seen', 'skill': 'pick', 'seed': 0, 'success': True, 'steps': 9}]
  log.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  code, printed = evaluate(log, '--output', tmp_path / 'out')
  assert code == 0 and printed.out.startswith('mine: 1 of 1 episodes, 100.0')
  assert (tmp_path / 'out' / 'report.html').exists()
  code, printed = evaluate(log, '--env', 'tabletop', '--output', tmp_path / 'out')
  assert code == 2 and 'leave out --env' in printed.err


def test_checkpoint_that_does_not_fit_the_environment(evaluate, tmp_path):
  pytest.importorskip('mujoco', reason="needs the extra 'sim'")
  wheels = rtjax.ActionSpec((rtjax.ActionField('wheels', 2, -1.0, 1.0),))
  folder = saved_run(models.build(replays.network(wheels), rngs=nnx.Rngs(0)), tmp_path / 'run', 'hashed-ngrams/1')
  code, printed = evaluate(folder, *SMALL, '--output', tmp_path / 'out')
  assert code == 2 and "acts with wheels [2], the environment 'tabletop' takes translation [3] m" in printed.err


def test_unknown_flag_suggests_the_nearest(evaluate, run_folder, dataset):
  code, printed = evaluate(run_folder, '--dataset', dataset, '--epsodes', 3)
  assert code == 2 and '--episodes' in printed.err


def test_help_is_quick_and_no_error_is_a_traceback():
  """In a process of their own: no TensorFlow for --help, one line for a mistake."""
  script = ('import runpy, sys\nsys.argv = ["eval.py", "--help"]\n'
            f'try:\n  runpy.run_path({str(SCRIPT)!r}, run_name="__main__")\n'
            'finally:\n  assert "tensorflow" not in sys.modules and "orbax" not in sys.modules')
  shown = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True).stdout
  assert all(word in shown for word in ('CHECKPOINT', '--dataset', '--split', '--episodes', '--show', '--output'))
  mistaken = [sys.executable, SCRIPT, 'nowhere', '--dataset', 'x', '--show', '-1']
  failed = subprocess.run(mistaken, capture_output=True, text=True, check=False)
  assert failed.returncode == 2 and failed.stderr == 'error: --show is -1, it must be at least 0.\n'
