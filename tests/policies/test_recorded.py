"""Recorded episodes as the input of a policy."""
import numpy as np
import pytest
from helpers import replays

from rtjax import actions
from rtjax.actions import ActionField, ActionSpec
from rtjax.evaluation.replay import replay
from rtjax.policies.recorded import open_dataset


@pytest.mark.parametrize(('spec', 'encoder', 'split', 'message'), [
    (actions.ARM_7D, 'hashed-ngrams/1', 'val', "of 'hashed-ngrams/1', the dataset .* holds .*sentence-encoder"),
    (actions.ARM_7D, '', 'test', "unknown split 'test'"),
    (ActionSpec((ActionField('wheels', 2),)), '', 'val', r"gives no \['wheels'\]"),
])
def test_dataset_that_does_not_fit(tmp_path, spec, encoder, split, message):
  policy = replays.FakePolicy(spec, np.zeros((4, spec.num_tokens), np.int32), encoder)
  folder = replays.bridge(tmp_path)
  with pytest.raises(ValueError, match=message):
    list(replay.replay_dataset(policy, open_dataset(policy, str(folder), split), 1))
