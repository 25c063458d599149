"""Evaluations in the toy environment, up to the report."""
import json

import pytest

pytest.importorskip('gymnasium', reason="needs the extra 'sim'")

from helpers import toy_env
from helpers.closed_loop_reports import policy, report

from rtjax.envs.vector import EnvironmentDied
from rtjax.evaluation.closed_loop.agents import AgentSettings, ExpertAgent, RandomAgent
from rtjax.evaluation.closed_loop.evaluator import Evaluation, evaluate
from rtjax.evaluation.closed_loop.protocol import FORMAT


def test_two_agents_and_an_earlier_report(tmp_path):
  evaluation = Evaluation(toy_env.environment(), 10, AgentSettings(2))
  first = evaluate(evaluation, RandomAgent(), [], ['expert'], tmp_path / 'one', 4)
  assert [p['name'] for p in first['policies']] == ['random', 'expert']
  assert first['policies'][1]['summary']['success']['successes'] == 12
  assert json.loads((tmp_path / 'one' / 'report.json').read_text()) == json.loads(json.dumps(first))
  log, = (tmp_path / 'one').glob('expert-*/episodes.jsonl')
  before = log.read_bytes()
  # The same evaluation again runs no episode.
  again = evaluate(evaluation, RandomAgent(), [], ['expert'], tmp_path / 'one', 4)
  assert log.read_bytes() == before and again['policies'] == first['policies']
  # A report takes the place of a checkpoint.
  longer = Evaluation(toy_env.environment(), 12, AgentSettings(2))
  more = evaluate(longer, ExpertAgent(), [], [str(tmp_path / 'one')], tmp_path / 'two', 0)
  assert more['comparisons'][0]['episodes'] == 20 and len(more['policies'][0]['episodes']) == 24
  assert (tmp_path / 'two' / 'report.md').read_text().startswith('# Closed-loop success in toy: expert')


def test_earlier_reports_that_cannot_be_compared(tmp_path):
  """Refused before an episode runs: few shared episodes, repeated ones, the same policy."""
  evaluate(Evaluation(toy_env.environment(), 10, AgentSettings(2)), RandomAgent(), [], [], tmp_path / 'earlier', 0)
  earlier = str(tmp_path / 'earlier')

  def refused(match, agent, compare, **changes):
    evaluation = Evaluation(toy_env.environment(), 3, AgentSettings(1), **changes)
    with pytest.raises(ValueError, match=match):
      evaluate(evaluation, agent, [], compare, tmp_path / 'new', 0)
    assert not (tmp_path / 'new').exists()

  refused('this evaluation and .*earlier share 6 episodes .* of 6 and 20, .*--min-shared 6', ExpertAgent(), [earlier])
  refused('random and .*earlier are the same policy', RandomAgent(), [earlier], min_shared=1)
  refused("two of the policies are called 'expert'", ExpertAgent(), ['expert'])
  refused('are the same policy', ExpertAgent(), [earlier, f'{earlier}/report.json'], min_shared=1)
  content = json.loads((tmp_path / 'earlier' / 'report.json').read_text())
  content['policies'][0]['episodes'] *= 2
  (tmp_path / 'earlier' / 'report.json').write_text(json.dumps(content))
  refused('--compare .*report.json: 20 of its 20 episodes occur more than once', ExpertAgent(), [earlier])


def test_fewer_episodes_than_environments(tmp_path):
  evaluation = Evaluation(toy_env.environment(('seen',)), 1, AgentSettings(3))
  result = evaluate(evaluation, ExpertAgent(), [], [], tmp_path, 0)
  assert result['policies'][0]['summary']['success']['successes'] == 1


def test_a_process_that_dies_is_named_with_its_episode(tmp_path):
  """Earlier it was "Connection reset by peer"; the same command continues with the finished episodes."""
  evaluation = Evaluation(toy_env.environment(('seen',), toy_env.DyingEnv), 3, AgentSettings(1))
  with pytest.raises(EnvironmentDied, match=r'environment 0 of 1 \(process \d+\) was killed by SIGKILL, .*memory is '
                     r'short\. Its episode was seen-push-3000000001\. Finished episodes are in .*episodes.jsonl'):
    evaluate(evaluation, ExpertAgent(), [], [], tmp_path, 0)
  healthy = Evaluation(toy_env.environment(('seen',)), 3, AgentSettings(1))
  assert evaluate(healthy, ExpertAgent(), [], [], tmp_path, 0)['policies'][0]['summary']['success']['successes'] == 3


def test_report_of_another_protocol(tmp_path):
  evaluation = Evaluation(toy_env.environment(), 1, AgentSettings(1))
  (tmp_path / 'report.json').write_text(json.dumps(report(policy())))
  with pytest.raises(ValueError, match=r"another protocol: its settings is .*'size': \[8, 8\]"):
    evaluate(evaluation, ExpertAgent(), [], [str(tmp_path)], tmp_path, 0)
  (tmp_path / 'report.json').write_text(json.dumps({'format': FORMAT}))
  with pytest.raises(ValueError, match='is no closed-loop report'):
    evaluate(evaluation, ExpertAgent(), [], [str(tmp_path)], tmp_path, 0)


def test_baselines_need_a_network(tmp_path):
  with pytest.raises(ValueError, match="--baseline blind needs a checkpoint, the agent 'expert' has no network"):
    evaluate(Evaluation(toy_env.environment(), 1, AgentSettings(1)), ExpertAgent(), ['blind'], [], tmp_path, 0)
