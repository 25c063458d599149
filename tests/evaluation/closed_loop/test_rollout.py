"""Episodes in the toy environment: run, logged, filmed, resumed."""
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip('gymnasium', reason="needs the extra 'sim'")

from helpers import toy_env
from helpers.paths import ROOT
from PIL import Image, ImageSequence

from rtjax import actions
from rtjax.evaluation.closed_loop import agents, rollout
from rtjax.evaluation.closed_loop.protocol import EpisodeId, EpisodeLog


def test_seed_and_skill_reach_the_environment(expert, episodes):
  """The expert needs one step more than the seed's last digit."""
  _, records = expert
  assert [EpisodeId.of(record) for record in records] == episodes
  for record in records:
    digit = record['seed'] % 10
    assert record['success'] == (digit < toy_env.RESET_RAISES)
    if record['success']:
      assert (record['steps'], record['failure'], record['outcome']) == (digit + 1, None, 'success')
    if digit != toy_env.RESET_RAISES:
      assert record['instruction'] == f'{record["skill"]} the {record["split"]} object'


@pytest.mark.parametrize(('digit', 'failure', 'message', 'steps'), [
    (toy_env.RESET_RAISES, 'error', 'RuntimeError: no usable start', 0),
    (toy_env.NAN, 'physics', "the observation 'proprioception' holds NaN", 2),
    (toy_env.STEP_RAISES, 'error', 'ZeroDivisionError: boom', 2), (toy_env.PHYSICS, 'physics', '', 2)])
def test_broken_episodes_count_as_failures(expert, digit, failure, message, steps):
  broken = [r for r in expert[1] if r['seed'] % 10 == digit]
  assert len(broken) == 2
  for record in broken:
    assert (record['success'], record['failure'], record['steps']) == (False, failure, steps)
    assert record['message'].startswith(message)


def test_log_is_json_lines_and_filmstrips_show_the_steps(expert, episodes):
  folder, records = expert
  header, *lines = [json.loads(line) for line in (folder / 'episodes.jsonl').read_text().splitlines()]
  assert header['policy'] == {'kind': 'expert'} and len(lines) == len(episodes) == len(records)
  for record in records:
    path = folder / 'films' / f'{record["split"]}-{record["skill"]}-{record["seed"]}.jpg'
    assert path.exists() == (record['steps'] > 0)
    if record['success']:
      assert record['filmstrip'] == list(range(record['steps']))
      filmstrip = np.asarray(Image.open(path), int)
      assert filmstrip.shape == (8, 12 * record['steps'], 3)
      means = filmstrip.reshape(8, -1, 12, 3).mean((0, 2, 3))
      np.testing.assert_allclose(means, 10 * np.arange(record['steps']), atol=2)


def test_videos_show_all_steps_in_real_time(vector, episodes, tmp_path):
  log, env = EpisodeLog(tmp_path, {}), toy_env.environment()
  selected = [episodes[4], episodes[toy_env.STEP_RAISES], episodes[toy_env.RESET_RAISES]]
  runner = rollout.Runner(agents.ExpertAgent(), vector, log, env.action_spec, 5, tmp_path / 'films', videos=True)
  list(runner.run(selected))
  assert {path.stem for path in (tmp_path / 'films').glob('*.webp')} == {episode.name for episode in selected[:2]}
  with Image.open(tmp_path / 'films' / f'{selected[0].name}.webp') as video:
    shown = [(np.asarray(frame.convert('RGB'), int).mean(), frame.info['duration'])
             for frame in ImageSequence.Iterator(video)]
  np.testing.assert_allclose([mean for mean, _ in shown], 10 * np.arange(5), atol=3)
  assert {milliseconds for _, milliseconds in shown} == {200}


def test_finished_episodes_are_not_run_again(expert, vector, episodes):
  folder, records = expert

  class FailingAgent(agents.ExpertAgent):
    def act(self, *_):
      raise AssertionError('act was called')

  assert toy_env.run(vector, folder, FailingAgent(), episodes) == records


SCRIPT = """
import pathlib, sys, time
from helpers import toy_env
from rtjax.evaluation.closed_loop import agents, protocol

class SlowAgent(agents.ExpertAgent):
  def act(self, *arguments):
    time.sleep(0.2)
    return super().act(*arguments)

if __name__ == '__main__':
  env = toy_env.environment()
  with env.vector(2) as vector:
    toy_env.run(vector, pathlib.Path(sys.argv[1]), SlowAgent(), protocol.episode_ids(env.splits, 10))
"""


def test_resumes_after_kill_9(expert, vector, episodes, tmp_path, without_times):
  script, log = tmp_path / 'script.py', tmp_path / 'run' / 'episodes.jsonl'
  script.write_text(SCRIPT)
  variables = os.environ | {'PYTHONPATH': f'{ROOT}:{ROOT}/tests'}
  process = subprocess.Popen([sys.executable, script, log.parent], env=variables, start_new_session=True)
  try:
    while process.poll() is None and (not log.exists() or log.read_text().count('\n') < 4):
      time.sleep(0.05)
    assert process.poll() is None, 'the process ended before it was killed'
  finally:
    os.killpg(process.pid, signal.SIGKILL)  # including the processes of its environments
    process.wait()
  before = log.read_text().count('\n') - 1
  assert 3 <= before < len(episodes)
  records = toy_env.run(vector, log.parent, agents.ExpertAgent(), episodes)
  assert [without_times(r) for r in records] == [without_times(r) for r in expert[1]]
  assert log.read_text().count('\n') == 1 + len(episodes)


def test_jerk():
  spec, steps = actions.ARM_7D, np.arange(20)
  velocity = 0.01 * np.sin(steps / 3)
  moves = np.zeros((20, 7), np.float32)
  moves[:, 1], moves[:, 6] = velocity, steps % 2
  expected = np.mean([abs(velocity[t + 1] - 2 * velocity[t] + velocity[t - 1]) for t in range(1, 19)]) * 5 ** 3
  assert rollout.jerk(moves, spec, 5) == pytest.approx(expected, rel=1e-4)
  assert rollout.jerk(moves[:2], spec, 5) is None
  assert rollout.jerk(moves / 0.05, actions.LIBERO, 5) == pytest.approx(expected, rel=1e-4)
  centimetres = actions.METAWORLD
  assert rollout.jerk(100 * moves[:, [0, 1, 2, 6]], centimetres, 5) == pytest.approx(expected, rel=1e-4)
  assert rollout.jerk(np.zeros((5, 2)), actions.ActionSpec((actions.ActionField('joints', 2),)), 5) is None
