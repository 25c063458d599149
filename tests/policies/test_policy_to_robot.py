"""The control loop of docs/guides/at_the_robot.md with a tiny model."""
import dataclasses

import numpy as np
from helpers.tiny_rt1 import TINY

from rtjax.checkpoints import PolicyMetadata
from rtjax.language import instructions
from rtjax.models import build
from rtjax.policies import action_filters, robots
from rtjax.policies.policy import Policy


def test_from_instruction_and_images_to_commands(tmp_path):
  table = instructions.Table('some-encoder/1', ('put carrot on plate',), np.ones((1, 512)))
  table.save(tmp_path / 'table.npz')
  model = build(dataclasses.replace(TINY, horizon=3), seed=0)
  policy = Policy(model, PolicyMetadata(embedding_id='some-encoder/1'))
  spec = policy.config.action_spec
  encoder = instructions.for_policy(policy.metadata.embedding_id, instructions.open_encoder(tmp_path / 'table.npz'))
  filters = action_filters.ActionFilters(
      spec, ensemble=action_filters.TemporalEnsemble(spec), smoothing=action_filters.ExponentialSmoothing(spec, 0.5),
      gripper=action_filters.GripperHysteresis(spec), rate_limiter=action_filters.RateLimiter(spec, 0.1))
  robot = robots.get('widowx', spec)

  policy.reset(embedding=encoder(['put carrot on plate'])[0])
  images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
  outputs = [policy.step(image) for image in images]
  commands = np.array([robot(filters(output)).action for output in outputs])
  low, high = (side[:3] for side in spec.bounds)
  assert commands.dtype == np.float32 and commands.shape == (6, 7)
  assert (np.abs(np.diff(commands[:, :3], axis=0)) <= 0.1 * (high - low) + 1e-6).all()
  assert set(commands[:, 6]) <= {-1, 1}

  # The first command is the first action of the plan; the second averages the two predictions for its step.
  np.testing.assert_allclose(commands[0, :3], outputs[0].plan[0, :3], atol=1e-7)
  both = np.array([outputs[0].plan[1, :3], outputs[1].plan[0, :3]]).T @ [1, np.exp(-0.01)] / (1 + np.exp(-0.01))
  step = np.clip((both - commands[0, :3]) / 2, -0.1 * (high - low), 0.1 * (high - low))
  np.testing.assert_allclose(commands[1, :3], commands[0, :3] + step, atol=1e-6)
