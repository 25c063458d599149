"""Recorded episodes as the input of a policy."""
import numpy as np
import pytest
from helpers import replays

from rtjax import actions
from rtjax.actions import ActionField, ActionSpec
from rtjax.evaluation.replay import replay
from rtjax.language.instructions import hashed_ngrams
from rtjax.policies.recorded import open_dataset


@pytest.mark.parametrize(('spec', 'encoder', 'split', 'message'), [
    (actions.ARM_7D, 'my-encoder/1', 'val', "of 'my-encoder/1', the dataset .* holds .*sentence-encoder"),
    (actions.ARM_7D, '', 'test', "unknown split 'test'"),
    (ActionSpec((ActionField('wheels', 2),)), '', 'val', r"gives no \['wheels'\]"),
])
def test_dataset_that_does_not_fit(tmp_path, spec, encoder, split, message):
  policy = replays.FakePolicy(spec, np.zeros((4, spec.num_tokens), np.int32), encoder)
  folder = replays.bridge(tmp_path)
  with pytest.raises(ValueError, match=message):
    list(replay.replay_dataset(policy, open_dataset(policy, str(folder), split), 1))


def test_the_policy_encodes_what_the_dataset_does_not_store(tmp_path):
  spec = actions.ARM_7D
  policy = replays.FakePolicy(spec, np.zeros((4, spec.num_tokens), np.int32), 'hashed-ngrams/1')
  list(replay.replay_dataset(policy, open_dataset(policy, str(replays.bridge(tmp_path)), 'val'), 1))
  np.testing.assert_array_equal(policy.embeddings, [hashed_ngrams('pick the red cube')] * len(policy.images))
