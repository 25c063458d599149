"""Agents in the toy environment."""
import dataclasses

import numpy as np
import pytest

pytest.importorskip('gymnasium', reason="needs the extra 'sim'")

from flax import nnx
from helpers import replays, saved_run, tiny_rt2, toy_env

from rtjax import actions, models
from rtjax.checkpoints import PolicyMetadata
from rtjax.evaluation.closed_loop import agents
from rtjax.evaluation.closed_loop.agents import AgentSettings, PolicyAgent
from rtjax.language.instructions import HASHED_NGRAMS
from rtjax.language.tokenizer import Tokenizer
from rtjax.policies.policy import BatchPolicy, Policy


def test_random_actions_depend_on_the_seed_alone(vector, episodes, tmp_path, without_times):
  together = toy_env.run(vector, tmp_path / 'together', agents.RandomAgent(), episodes)
  alone = [toy_env.run(vector, tmp_path / 'alone', agents.RandomAgent(), [one])[0] for one in episodes[:4]]
  assert [without_times(r) for r in alone] == [without_times(r) for r in together[:4]]


def test_batched_policy_acts_as_alone(vector, episodes, tmp_path, policy, monkeypatch):
  """A batched episode gets the logits of a policy of one robot."""
  calls = []
  step = BatchPolicy.step

  def record(self, images, slots=None, proprioception=None):
    outputs = step(self, images, slots, proprioception)
    calls.append((slots, images, outputs))
    return outputs

  monkeypatch.setattr(BatchPolicy, 'step', record)
  records = toy_env.run(vector, tmp_path, PolicyAgent('tiny', {}, policy, AgentSettings(3)), episodes[:5])
  assert all(r['confidence'] > 0 and r['interventions'] == 0 for r in records)
  monkeypatch.undo()
  episode = episodes[0]
  policy.reset(f'{episode.skill} the {episode.split} object')
  mine = [(images[slots.index(0)], outputs[slots.index(0)]) for slots, images, outputs in calls if 0 in slots]
  for image, output in mine[:records[0]['steps']]:
    np.testing.assert_allclose(policy.step(image).logits, output.logits, atol=1e-4)


def test_latency_excludes_compilation(vector, episodes, tmp_path, policy):
  agent = PolicyAgent('tiny', {}, policy, AgentSettings(3))
  first, again = (toy_env.run(vector, tmp_path / name, agent, episodes[:3]) for name in ('first', 'again'))
  # All three robots are in the first step; a program for fewer may be compiled when one has finished.
  assert all(r['steps'] - 2 <= len(r['latency_ms']) < r['steps'] for r in first)
  assert all(len(r['latency_ms']) == r['steps'] for r in again)


def test_low_confidence_holds_the_robot_and_is_counted(vector, episodes, tmp_path, policy):
  agent = PolicyAgent('tiny', {}, policy, AgentSettings(3, threshold=1.0))
  for record in toy_env.run(vector, tmp_path, agent, episodes[:2]):
    assert record['interventions'] == record['steps'] == toy_env.MAX_STEPS
    assert (record['failure'], record['jerk']) == ('no motion', 0.0)


def test_blind_baseline_gets_one_instruction(vector, episodes, tmp_path, policy, monkeypatch):
  received = []
  reset = BatchPolicy.reset
  monkeypatch.setattr(BatchPolicy, 'reset', lambda self, slot, text: received.append(text) or reset(self, slot, text))
  blind = agents.baseline('blind', policy, AgentSettings(3, threshold=0.5), 'always this')
  assert blind.identity == {'kind': 'blind', 'weights': agents.weights_digest(policy), 'instruction': 'always this'}
  toy_env.run(vector, tmp_path, blind, episodes[:5])
  assert received == ['always this'] * 5


def test_type_of_the_computation_is_part_of_the_identity(policy, tmp_path):
  run = str(saved_run.save(policy.model, tmp_path, HASHED_NGRAMS))
  settings = AgentSettings(1, dtype='bfloat16')
  agent = agents.load(run, settings)
  assert agent.policy.config.dtype == agent.identity['dtype'] == 'bfloat16'
  assert agents.baseline('untrained', agent.policy, settings, '').identity['dtype'] == 'bfloat16'
  assert 'dtype' not in agents.load(run, AgentSettings(1)).identity


def test_untrained_baseline_has_other_weights(policy):
  trained = models.build(policy.config, seed=7)
  untrained = agents.baseline('untrained', Policy(trained, policy.metadata), AgentSettings(1), 'unused')
  assert untrained.identity == {'kind': 'untrained', 'weights': agents.weights_digest(policy), 'instruction': None}


def test_nan_logits_fail_the_episode(vector, episodes, tmp_path):
  model = models.build(replays.tiny_config(actions.ARM_7D), seed=0)
  nnx.update(model, nnx.map_state(lambda _, leaf: leaf * np.nan, nnx.state(model, nnx.Param)))
  policy = Policy(model, PolicyMetadata(embedding_id=HASHED_NGRAMS))
  records = toy_env.run(vector, tmp_path, PolicyAgent('nan', {}, policy, AgentSettings(3)), episodes[:4])
  assert [r['failure'] for r in records] == ['error'] * 4 and all('NaN' in r['message'] for r in records)


def test_actions_that_do_not_fit():
  wheels = actions.ActionSpec((actions.ActionField('wheels', 2, unit='m'),))
  with pytest.raises(ValueError, match=r"are wheels \[2\] m, those of the environment 'toy' are translation \[3\] m"):
    agents.require_matching_actions(wheels, actions.ARM_7D, 'toy')
  agents.require_matching_actions(actions.ARM_7D, actions.ARM_7D, 'toy')


def test_cameras():
  main, wrist = (np.full((2, 4, 4, 3), i, np.uint8) for i in range(2))
  observations = {'image': main, 'wrist_image': wrist}
  np.testing.assert_array_equal(agents.select_images((), 1, observations), main)
  np.testing.assert_array_equal(agents.select_images(('wrist',), 1, observations), wrist)
  np.testing.assert_array_equal(agents.select_images(('wrist', 'image'), 2, observations), np.stack([wrist, main], 1))
  with pytest.raises(ValueError, match=r"3 cameras, .*'left'.*the environment has \['image', 'wrist_image'\]"):
    agents.select_images(('image', 'wrist', 'left'), 3, observations)


@pytest.mark.parametrize(('statistics', 'demonstrations'), [
    ({}, None), ({'a': {'episodes': 3}, 'b': {'episodes': 4}}, 7), ({'a': {'episodes': 3}, 'b': {}}, None)])
def test_training_progress(policy, statistics, demonstrations):
  trained = Policy(policy.model, PolicyMetadata(embedding_id=HASHED_NGRAMS, step=5, statistics=statistics))
  assert agents.training_progress(trained) == {'step': 5, 'demonstrations': demonstrations}


def rt1():
  config = dataclasses.replace(replays.tiny_config(actions.ARM_7D), window=1, horizon=3)
  return Policy(models.build(config, seed=0), PolicyMetadata(embedding_id=HASHED_NGRAMS))


def rt2(action_head):
  pytest.importorskip('tokenizers', reason="needs the extra 'language'")
  tokenizer, backbone = Tokenizer(), tiny_rt2.fast().backbone
  backbone = dataclasses.replace(backbone, text=dataclasses.replace(backbone.text, vocab_size=tokenizer.size))
  config = dataclasses.replace(
      tiny_rt2.TINY, action_head=action_head, action_spec=actions.ARM_7D, action_ids=(), horizon=3, fast_size=128,
      prompt_length=20, backbone=backbone)
  chunks = np.random.default_rng(0).uniform(*actions.ARM_7D.bounds, (100, 3, 7))
  model = models.build(config.with_codec(lambda: chunks).with_tokenizer(tokenizer), seed=0)
  model.set_tokenizer(tokenizer)
  return Policy(model, PolicyMetadata(embedding_id=tokenizer.id))


@pytest.mark.parametrize('build', [rt1, lambda: rt2('text'), lambda: rt2('fast')], ids=['rt1', 'rt2 text', 'rt2 fast'])
def test_plan_is_executed_before_the_policy_is_called_again(build, vector, episodes, tmp_path, monkeypatch):
  policy = build()
  calls = []
  step = BatchPolicy.step

  def record(self, images, slots=None, proprioception=None):
    outputs = step(self, images, slots, proprioception)
    calls.extend(outputs)
    return outputs

  monkeypatch.setattr(BatchPolicy, 'step', record)
  actions_taken = []
  agent = PolicyAgent('tiny', {}, policy, AgentSettings(3, execute=3))
  act = agent.act
  monkeypatch.setattr(agent, 'act', lambda *args: actions_taken.extend(d := act(*args)) or d)
  record, = toy_env.run(vector, tmp_path, agent, episodes[:1])
  assert len(calls) == -(-record['steps'] // 3)
  expected = np.concatenate([output.plan for output in calls])[:record['steps']]
  np.testing.assert_array_equal([decision.action for decision in actions_taken], expected)


def test_plans_shorter_than_what_is_executed_are_an_error(policy):
  with pytest.raises(ValueError, match=r'--execute is 2, the policy plans 1 actions'):
    PolicyAgent('tiny', {}, policy, AgentSettings(3, execute=2))
