"""Windows against a brute-force version that walks over a padded episode."""
import jax
import numpy as np
import pytest

from rtjax.data.windows import (
  WindowConfig,
  next_changes,
  take_steps,
  to_batch,
  window_ends,
  window_slots,
  window_targets,
)

CASES = [WindowConfig(length, stride, horizon, *padding) for length in (1, 2, 6) for stride in (1, 3, 6, 7)
         for horizon in (1, 4) for padding in ((False, 'front'), (True, 'front'), (False, 'back'))]


def brute_force(length: int, config: WindowConfig):
  """Return (targets, mask) of all windows, last one first; None is padding."""
  windows, end = [], length - 1
  while end >= 0:
    steps = [s for s in range(end - config.length + 1, end + 1) if s >= 0]
    empty = [None] * (config.length - len(steps))
    steps = empty + steps if config.padding == 'front' else steps + empty
    targets = [[s + f if s is not None and s + f < length else None for f in range(config.horizon)] for s in steps]
    mask = [[t is not None or (config.padding_in_loss and s is None) for t in row]
            for s, row in zip(steps, targets, strict=True)]
    windows.append((targets, mask))
    end -= config.stride
  return windows


@pytest.mark.parametrize('config', CASES, ids=str)
def test_windows_are_those_of_brute_force(config):
  for length in range(14):
    ends = window_ends(length, config)
    expected = brute_force(length, config)[::-1]
    assert len(ends) == len(expected)
    for end, (targets, mask) in zip(ends, expected, strict=True):
      found_targets, found_mask = window_targets(end, length, config)
      assert [[t if t >= 0 else None for t in row] for row in found_targets] == targets
      np.testing.assert_array_equal(found_mask, mask)


@pytest.mark.parametrize('length', range(1, 9))
def test_next_changes_are_those_of_brute_force(length):
  for number in range(2 ** length):
    commands = np.array([number >> i & 1 for i in range(length)], bool)
    expected = [next((t for t in range(s + 1, length) if commands[t] != commands[s]), length - 1)
                for s in range(length)]
    assert next_changes(commands).tolist() == expected


@pytest.mark.parametrize('length', range(1, 20))
def test_stride_of_the_length_uses_each_step_once(length):
  config = WindowConfig(6, 6)
  steps = np.concatenate([window_targets(end, length, config)[0] for end in window_ends(length, config)])
  assert steps[steps >= 0].tolist() == list(range(length))


def test_slots():
  front, back = WindowConfig(4), WindowConfig(4, padding='back')
  assert window_slots(1, front) == (slice(2, 4), slice(0, 2))
  assert window_slots(1, back) == (slice(0, 2), slice(0, 2))
  for end in (3, 9):
    assert window_slots(end, front) == window_slots(end, back) == (slice(0, 4), slice(end - 3, end + 1))


def test_wrong_padding():
  with pytest.raises(ValueError, match="padding is 'middle', expected 'front' or 'back'"):
    WindowConfig(padding='middle')
  with pytest.raises(ValueError, match="padding_in_loss is on and padding is 'back'"):
    WindowConfig(padding_in_loss=True, padding='back')


def test_take_steps_fills_with_zeros():
  values = np.arange(1, 7, dtype=np.float32).reshape(3, 2)
  np.testing.assert_array_equal(take_steps(values, np.array([[-1, 2], [0, -3]])), [[[0, 0], [5, 6]], [[1, 2], [0, 0]]])
  assert take_steps(values, np.array([0])).dtype == np.float32


def test_to_batch_leaves_host_arrays():
  names = ('images', 'frame_mask', 'instruction', 'proprioception', 'actions', 'action_mask', 'waypoints')
  arrays = {name: np.full(1, number) for number, name in enumerate(names)}
  host = {name: np.zeros(1, object) for name in ('instructions', 'episodes', 'steps')}
  batch = to_batch(arrays | host)
  assert [int(array[0]) for array in jax.tree.leaves(batch)] == [0, 1, 2, 3, 4, 5, 6]
  assert batch.observation.instruction is arrays['instruction'] and batch.waypoints is arrays['waypoints']
  del arrays['waypoints'], arrays['proprioception']
  prompt = np.ones((1, 3), np.int32)
  with_prompt = to_batch(arrays | host, prompt)
  assert with_prompt.observation.prompt is prompt and with_prompt.observation.instruction is None
  assert with_prompt.waypoints is None and with_prompt.observation.proprioception is None


@pytest.mark.parametrize('field', ['length', 'stride', 'horizon'])
def test_sizes_must_be_positive(field):
  with pytest.raises(ValueError, match=f'{field} is 0'):
    WindowConfig(**{field: 0})
