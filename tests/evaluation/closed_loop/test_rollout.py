"""Closed loop in a toy environment: what is run, logged, resumed and counted."""
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.paths import ROOT

pytest.importorskip('gymnasium', reason="needs the extra 'sim'")

from flax import nnx
from helpers import replays, toys
from PIL import Image, ImageSequence

from rtjax import actions, models
from rtjax.evaluation.closed_loop import agents, rollout
from rtjax.evaluation.closed_loop.protocol import FIRST_SEED, Entry, Log, entries
from rtjax.evaluation.html import frames
from rtjax.language.instructions import HASHED_NGRAMS
from rtjax.policies.policy import BatchPolicy, Policy

WORLD = toys.world()
ENTRIES = entries(WORLD.splits, 10)


def run(vector, folder, actor, wanted=ENTRIES):
  return toys.run(vector, folder, actor, wanted)


@pytest.fixture(scope='module')
def vector():
  with rollout.arena(WORLD.make, 'seen', 3) as vector:
    yield vector


@pytest.fixture(scope='module')
def expert(vector, tmp_path_factory):
  folder = tmp_path_factory.mktemp('expert')
  return folder, run(vector, folder, agents.Expert())


def test_protocol():
  assert [e.seed for e in ENTRIES[:10]] == list(range(FIRST_SEED, FIRST_SEED + 10))
  assert {e.split for e in ENTRIES[:10]} == {'seen'} and [e.skill for e in ENTRIES[:3]] == ['pick', 'push', 'pick']
  assert set(entries(WORLD.splits, 4)) < set(ENTRIES)
  assert entries({'all': ()}, 1) == [Entry('all', '', FIRST_SEED)]
  assert FIRST_SEED >= 2 ** 31  # data/tabletop draws its seeds below


def test_every_episode_is_what_its_seed_says(expert):
  """Seeds and skills reach the right environment; the expert needs one step more than the seed's last digit."""
  _, records = expert
  assert [Entry(r['split'], r['skill'], r['seed']) for r in records] == ENTRIES
  for record in records:
    digit = record['seed'] % 10
    assert record['success'] == (digit < toys.BREAKS_AT_START)
    if record['success']:
      assert (record['steps'], record['failure'], record['deed']) == (digit + 1, None, 'as asked')
    if digit != toys.BREAKS_AT_START:
      assert record['instruction'] == f'{record["skill"]} the {record["split"]} thing'


@pytest.mark.parametrize(('digit', 'label', 'message', 'steps'), [
    (toys.BREAKS_AT_START, 'error', 'RuntimeError: no usable start', 0),
    (toys.NAN, 'physics', "the observation 'proprioception' holds NaN", 2),
    (toys.RAISES, 'error', 'ZeroDivisionError: boom', 2), (toys.PHYSICS, 'physics', '', 2)])
def test_broken_episodes_are_counted_failures(expert, digit, label, message, steps):
  broken = [r for r in expert[1] if r['seed'] % 10 == digit]
  assert len(broken) == 2
  for record in broken:
    assert (record['success'], record['failure'], record['steps']) == (False, label, steps)
    assert record['message'].startswith(message)


def test_log_is_json_lines_and_films_show_the_steps(expert):
  folder, records = expert
  header, *lines = [json.loads(line) for line in (folder / 'episodes.jsonl').read_text().splitlines()]
  assert header['policy'] == {'kind': 'expert'} and len(lines) == len(ENTRIES) == len(records)
  for record in records:
    film = folder / 'films' / f'{record["split"]}-{record["skill"]}-{record["seed"]}.jpg'
    assert film.exists() == (record['steps'] > 0)
    if record['success']:
      assert record['film'] == list(range(record['steps']))
      picture = np.asarray(Image.open(film), int)
      assert picture.shape == (8, 12 * record['steps'], 3)
      means = picture.reshape(8, -1, 12, 3).mean((0, 2, 3))
      np.testing.assert_allclose(means, 10 * np.arange(record['steps']), atol=2)


def test_videos_play_all_steps_in_their_time(vector, tmp_path):
  log = Log(tmp_path, {})
  wanted = [ENTRIES[4], ENTRIES[toys.RAISES], ENTRIES[toys.BREAKS_AT_START]]
  list(rollout.Runner(agents.Expert(), vector, log, WORLD.spec, 5, tmp_path / 'films', videos=True).run(wanted))
  films = {path.stem for path in (tmp_path / 'films').glob('*.webp')}
  assert films == {entry.name for entry in wanted[:2]}
  with Image.open(tmp_path / 'films' / f'{wanted[0].name}.webp') as video:
    shown = [(np.asarray(frame.convert('RGB'), int).mean(), frame.info['duration'])
             for frame in ImageSequence.Iterator(video)]
  np.testing.assert_allclose([mean for mean, _ in shown], 10 * np.arange(5), atol=3)
  assert {milliseconds for _, milliseconds in shown} == {200}


def test_a_long_video_is_thinned_out():
  with Image.open(io.BytesIO(frames.video([np.full((8, 8, 3), i // 2, np.uint8) for i in range(400)], 80))) as video:
    assert video.n_frames <= frames.VIDEO
    durations = [frame.copy().info['duration'] for frame in ImageSequence.Iterator(video)]
    assert sum(durations) == pytest.approx(5000, rel=0.05)


def test_finished_episodes_are_not_run_again(expert, vector):
  folder, records = expert

  class Nobody(agents.Expert):
    def act(self, *_):
      raise AssertionError('asked to act')

  assert run(vector, folder, Nobody()) == records


def test_a_line_cut_off_is_run_again(expert, vector, tmp_path):
  folder, records = expert
  whole = (folder / 'episodes.jsonl').read_bytes()
  (tmp_path / 'episodes.jsonl').write_bytes(whole[:-40])
  again = run(vector, tmp_path, agents.Expert())
  assert [without_times(r) for r in again] == [without_times(r) for r in records]
  assert len((tmp_path / 'episodes.jsonl').read_text().splitlines()) == 1 + len(ENTRIES)


def test_another_evaluation_in_the_folder_is_refused(expert):
  folder, _ = expert
  with pytest.raises(ValueError, match=r"another evaluation \(policy .*expert.* there, .*random.* now\).*--output"):
    Log(folder, {'policy': agents.Random().identity})


def test_damaged_log(tmp_path):
  (tmp_path / 'episodes.jsonl').write_text('{"format": 1}\nno json\n')
  with pytest.raises(ValueError, match='is damaged'):
    Log(tmp_path, {})


SCRIPT = """
import pathlib, sys, time
from helpers import toys
from rtjax.evaluation.closed_loop import agents, protocol, rollout

WORLD = toys.world()

class Slow(agents.Expert):
  def act(self, *arguments):
    time.sleep(0.2)
    return super().act(*arguments)

if __name__ == '__main__':
  with rollout.arena(WORLD.make, 'seen', 2) as vector:
    toys.run(vector, pathlib.Path(sys.argv[1]), Slow(), protocol.entries(WORLD.splits, 10))
"""


def test_resumes_after_kill_9(expert, vector, tmp_path):
  script, log = tmp_path / 'script.py', tmp_path / 'run' / 'episodes.jsonl'
  script.write_text(SCRIPT)
  environment = os.environ | {'PYTHONPATH': f'{ROOT}:{ROOT}/tests'}
  process = subprocess.Popen([sys.executable, script, log.parent], env=environment, start_new_session=True)
  try:
    while process.poll() is None and (not log.exists() or log.read_text().count('\n') < 4):
      time.sleep(0.05)
    assert process.poll() is None, 'it ended before it was killed'
  finally:
    os.killpg(process.pid, signal.SIGKILL)  # its environments too
    process.wait()
  before = log.read_text().count('\n') - 1
  assert 3 <= before < len(ENTRIES)
  records = run(vector, log.parent, agents.Expert())
  assert [without_times(r) for r in records] == [without_times(r) for r in expert[1]]
  assert log.read_text().count('\n') == 1 + len(ENTRIES)


def test_random_is_the_same_whatever_runs_beside(vector, tmp_path):
  together = run(vector, tmp_path / 'together', agents.Random())
  alone = [run(vector, tmp_path / 'alone', agents.Random(), [entry])[0] for entry in ENTRIES[:4]]
  assert [without_times(r) for r in alone] == [without_times(r) for r in together[:4]]


@pytest.fixture(scope='module')
def policy():
  return Policy(models.build(replays.network(actions.ARM_7D), rngs=nnx.Rngs(0)), HASHED_NGRAMS)


def test_policy_sees_its_own_episode(vector, tmp_path, policy, monkeypatch):
  """Each batched episode takes the actions that the policy takes alone, in the same pictures and words."""
  taken = []
  step = BatchPolicy.step

  def remember(self, images, slots=None, proprioception=None):
    outputs = step(self, images, slots, proprioception)
    taken.append((slots, images, outputs))
    return outputs

  monkeypatch.setattr(BatchPolicy, 'step', remember)
  records = run(vector, tmp_path, agents.PolicyActor('tiny', {}, policy, 3), ENTRIES[:5])
  assert all(r['confidence'] > 0 and r['interventions'] == 0 for r in records)
  monkeypatch.undo()
  episode = ENTRIES[0]
  policy.reset(f'{episode.skill} the {episode.split} thing')
  mine = [(images[slots.index(0)], outputs[slots.index(0)]) for slots, images, outputs in taken if 0 in slots]
  for image, output in mine[:records[0]['steps']]:
    np.testing.assert_allclose(policy.step(image).logits, output.logits, atol=1e-4)


def test_latency_leaves_out_compilation(vector, tmp_path, policy):
  actor = agents.PolicyActor('tiny', {}, policy, 3)
  first = run(vector, tmp_path, actor, ENTRIES[:3])
  assert all(len(r['milliseconds']) == r['steps'] - 1 for r in first if r['steps'] == toys.MAX_STEPS)


def test_low_confidence_holds_the_robot_and_is_counted(vector, tmp_path, policy):
  records = run(vector, tmp_path, agents.PolicyActor('tiny', {}, policy, 3, threshold=1.0), ENTRIES[:2])
  for record in records:
    assert record['interventions'] == record['steps'] == toys.MAX_STEPS
    assert (record['failure'], record['jerk']) == ('no motion', 0.0)


def test_a_blind_policy_is_told_the_same(vector, tmp_path, policy, monkeypatch):
  told = []
  reset = BatchPolicy.reset
  monkeypatch.setattr(BatchPolicy, 'reset', lambda self, slot, text: told.append(text) or reset(self, slot, text))
  run(vector, tmp_path, agents.PolicyActor('blind', {}, policy, 3, told='always this'), ENTRIES[:5])
  assert told == ['always this'] * 5


def test_a_network_that_gives_nan_fails_its_episodes(vector, tmp_path):
  model = models.build(replays.network(actions.ARM_7D), rngs=nnx.Rngs(0))
  nnx.update(model, nnx.map_state(lambda _, leaf: leaf * np.nan, nnx.state(model, nnx.Param)))
  records = run(vector, tmp_path, agents.PolicyActor('nan', {}, Policy(model, HASHED_NGRAMS), 3), ENTRIES[:4])
  assert [r['failure'] for r in records] == ['error'] * 4 and all('NaN' in r['message'] for r in records)


def test_actions_that_do_not_fit():
  with pytest.raises(ValueError, match=r"acts with wheels \[2\] m, the environment 'toy' takes translation \[3\] m"):
    agents.require_fit(actions.ActionSpec((actions.ActionField('wheels', 2, unit='m'),)), actions.ARM_7D, 'toy')
  agents.require_fit(actions.ARM_7D, actions.ARM_7D, 'toy')


def test_cameras():
  main, wrist = (np.full((2, 4, 4, 3), i, np.uint8) for i in range(2))
  seen = {'image': main, 'wrist_image': wrist}
  np.testing.assert_array_equal(agents.images((), 1, seen), main)
  np.testing.assert_array_equal(agents.images(('wrist',), 1, seen), wrist)
  np.testing.assert_array_equal(agents.images(('wrist', 'image'), 2, seen), np.stack([wrist, main], 1))
  with pytest.raises(ValueError, match=r"3 cameras, .*'left'.*the environment has \['image', 'wrist_image'\]"):
    agents.images(('image', 'wrist', 'left'), 3, seen)


def test_jerk():
  spec, steps = actions.ARM_7D, np.arange(20)
  velocity = 0.01 * np.sin(steps / 3)
  moves = np.zeros((20, 7), np.float32)
  moves[:, 1], moves[:, 6] = velocity, steps % 2
  expected = np.mean([abs(velocity[t + 1] - 2 * velocity[t] + velocity[t - 1]) for t in range(1, 19)]) * 5 ** 3
  assert rollout.jerk(moves, spec, 5) == pytest.approx(expected, rel=1e-4)
  assert rollout.jerk(moves[:2], spec, 5) is None
  centimetres = actions.METAWORLD
  assert rollout.jerk(100 * moves[:, [0, 1, 2, 6]], centimetres, 5) == pytest.approx(expected, rel=1e-4)
  assert rollout.jerk(np.zeros((5, 2)), actions.ActionSpec((actions.ActionField('joints', 2),)), 5) is None


def without_times(record):
  return {name: value for name, value in record.items() if name not in ('seconds', 'milliseconds')}
