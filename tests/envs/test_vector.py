"""Processes of a vector environment that die."""
import functools
import os
import signal

import numpy as np
import pytest

pytest.importorskip('gymnasium', reason="needs the extra 'sim'")

from helpers import toy_env

from rtjax import envs
from rtjax.envs.vector import EnvironmentDied

ACTIONS = np.zeros((2, 7), np.float32)


@pytest.mark.parametrize('call', [
    lambda vector: vector.step(ACTIONS), *(pytest.param(call, marks=pytest.mark.slow) for call in (
        lambda vector: vector.reset(), lambda vector: vector.call('expert'),
        lambda vector: vector.set_attr('episode', None)))])
def test_any_call_names_the_process(call):
  vector = envs.make_vector(functools.partial(toy_env.ToyEnv, 'seen'), 2)
  vector.reset()
  os.kill(vector.processes[1].pid, signal.SIGTERM)
  with pytest.raises(EnvironmentDied, match=rf'environment 1 of 2 \(process {vector.processes[1].pid}\) was killed by '
                     r'SIGTERM\.') as died:
    call(vector)
  assert died.value.index == 1
  vector.close()
  assert not any(process.is_alive() for process in vector.processes)


def test_death_at_the_start():
  with pytest.raises(EnvironmentDied, match=r'environment 0 of 1 .* ended with exit status 3'):
    envs.make_vector(functools.partial(toy_env.UnstartableEnv, 'seen'), 1)
