"""A served model equals a local policy; and the command, from a checkpoint to shutdown."""
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import jax
import numpy as np
import pytest
from helpers import saved_run
from helpers.fakes import serving
from helpers.paths import ROOT
from helpers.tiny_rt1 import TINY
from rtjax_client import RemoteError, RemotePolicy

from rtjax import models, serve
from rtjax.checkpoints import PolicyMetadata
from rtjax.policies import policy as policy_module
from rtjax.policies.policy import BatchPolicy, Policy
from rtjax.runtime import cli
from rtjax.serving.server import warm_up

SIZE = (32, 40)
METADATA = PolicyMetadata(embedding_id='hashed-ngrams/1')


@pytest.fixture(scope='module')
def model():
  return models.build(TINY, seed=0)


def frames(count: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), dtype=np.uint8)


def test_equals_a_local_policy(model):
  """Two robots in turn, one with a change of instruction: tokens, plan and confidence of five steps each."""
  policies = BatchPolicy(model, 2, METADATA)
  warm_up(policies, SIZE)
  with serving(policies, size=SIZE) as (_, port), RemotePolicy(port=port) as one, RemotePolicy(port=port) as two:
    local = [Policy(model, METADATA), Policy(model, METADATA)]
    for number, remote in enumerate((one, two)):
      remote.reset(f'task {number}')
      local[number].reset(f'task {number}')
    for step in range(5):
      if step == 3:
        one.set_instruction('another')
        local[0].set_instruction('another')
      for number, remote in enumerate((one, two)):
        image = frames(5, number)[step]
        got, expected = remote.step(image), local[number].step(image)
        np.testing.assert_array_equal(got.tokens, expected.tokens)
        np.testing.assert_array_equal(got.plan, expected.plan)
        np.testing.assert_allclose(got.confidence, expected.confidence, rtol=1e-4)
        assert got.action.keys() == expected.action.keys() and got.begins == (step == 0)


def test_recovers_from_a_failure_of_the_device(model, monkeypatch):
  """Every client gets one error, also one that was not in the failed step; then all begin new episodes."""
  policies = BatchPolicy(model, 2, METADATA)
  warm_up(policies, SIZE)
  image, run = frames(1)[0], policy_module._step

  def fails(*arguments):
    run(*arguments)
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')

  with serving(policies, size=SIZE) as (_, port), RemotePolicy(port=port) as one, RemotePolicy(port=port) as two:
    first = [robot.reset('go') or robot.step(image) for robot in (one, two)]
    monkeypatch.setattr(policy_module, '_step', fails)
    with pytest.raises(RemoteError, match='The episode is over'):
      one.step(image)
    with pytest.raises(urllib.error.HTTPError, match='503'):
      urllib.request.urlopen(f'http://127.0.0.1:{port}/healthz', timeout=10)
    monkeypatch.undo()
    with pytest.raises(RemoteError, match='The episode is over'):
      two.step(image)
    for robot, expected in zip((one, two), first, strict=True):
      out = robot.step(image)
      assert out.begins
      np.testing.assert_array_equal(out.plan, expected.plan)
    assert urllib.request.urlopen(f'http://127.0.0.1:{port}/healthz', timeout=10).read() == b'OK\n'
    assert not one.step(image).begins and not two.step(image).begins


def test_error_for_an_unknown_encoder(model):
  policies = BatchPolicy(model, 1, PolicyMetadata(embedding_id='universal-sentence-encoder-large/5'))
  warm_up(policies, SIZE)
  with serving(policies, size=SIZE) as (_, port), RemotePolicy(port=port) as policy:
    policy.reset('pick up the can')
    with pytest.raises(RuntimeError, match=r'universal-sentence-encoder-large/5.*embedding='):
      policy.step(frames(1)[0])
    policy.reset(embedding=np.zeros(512))
    assert policy.step(frames(1)[0]).begins


def test_command_line(model, tmp_path):
  """Start from a checkpoint, serve with a key, and stop at SIGTERM."""
  saved_run.save(model, tmp_path, METADATA.embedding_id)
  command = [sys.executable, '-m', 'rtjax.serve', str(tmp_path), '--port', '0', '--max-clients', '2', '--image-size',
             *map(str, SIZE)]
  with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                        env=os.environ | {'JAX_PLATFORMS': 'cpu', 'RTJAX_API_KEY': 'key'}) as process:
    try:
      assert process.stdout.readline().startswith('Compiling the policy for images of 32x40, about ')
      address = process.stdout.readline().split()[-1]
      assert urllib.request.urlopen(f'{address}/healthz', timeout=10).read() == b'OK\n'
      with RemotePolicy(port=int(address.rsplit(':', 1)[1]), api_key='key') as policy:
        assert policy.metadata['name'] == tmp_path.name and policy.metadata['embedding_id'] == METADATA.embedding_id
        policy.reset('go')
        out, expected = policy.step(frames(1)[0]), Policy(model, METADATA)
        expected.reset('go')
        np.testing.assert_array_equal(out.tokens, expected.step(frames(1)[0]).tokens)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
      assert process.stdout.read() == 'Stopped.\n'
      errors = process.stderr.read()
      assert 'Traceback' not in errors and 'client 0 left after 1 episodes' in errors
    finally:
      process.kill()


@pytest.mark.parametrize('arguments, message', [
    (['--max-clients', '0'], '--max-clients is 0'), (['--port', '70000'], '--port is 70000'),
    (['--host', '0.0.0.0'], 'RTJAX_API_KEY'), (['--idle-timeout', '0'], '--idle-timeout is 0'),
    (['--image-size', '0', '3'], '--image-size'),
    (['--encoder', '/none'], 'instruction encoder'), ([], 'no model at')])
def test_bad_arguments(arguments, message, monkeypatch, capsys):
  monkeypatch.delenv('RTJAX_API_KEY', raising=False)
  monkeypatch.setattr(sys, 'argv', ['serve', '/nowhere', *arguments])
  with pytest.raises(SystemExit) as stop:
    cli.run(serve.main)
  error = capsys.readouterr().err
  assert stop.value.code == 2 and error.startswith('error: ') and message in error
