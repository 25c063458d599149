"""Shared environments, records and policies.

The fixtures import toy_env within, because gymnasium is an extra.
"""
import pytest

from rtjax import actions, models
from rtjax.checkpoints import PolicyMetadata
from rtjax.evaluation.closed_loop.protocol import episode_ids
from rtjax.language.instructions import HASHED_NGRAMS
from rtjax.policies.policy import Policy


@pytest.fixture(scope='session')
def episodes():
  """Ten episodes of each of two splits of the toy environment."""
  from helpers import toy_env
  return episode_ids(toy_env.environment().splits, 10)


@pytest.fixture(scope='session')
def vector():
  """Three toy environments, each in its own process."""
  from helpers import toy_env
  with toy_env.environment().vector(3) as vector:
    yield vector


@pytest.fixture(scope='session')
def expert(vector, episodes, tmp_path_factory):
  """Folder and records of the expert."""
  from helpers import toy_env

  from rtjax.evaluation.closed_loop.agents import ExpertAgent
  folder = tmp_path_factory.mktemp('expert')
  return folder, toy_env.run(vector, folder, ExpertAgent(), episodes)


@pytest.fixture(scope='session')
def policy():
  from helpers import replays
  model = models.build(replays.tiny_config(actions.ARM_7D), seed=0)
  return Policy(model, PolicyMetadata(embedding_id=HASHED_NGRAMS))


@pytest.fixture(scope='session')
def without_times():
  """Function that removes the durations from a record."""
  return lambda record: {name: value for name, value in record.items() if name not in ('seconds', 'latency_ms')}
