"""ActionSpecs by the names and numbers of LeRobot datasets."""
import numpy as np
import pytest

pytest.importorskip('pyarrow', reason="needs the extra 'lerobot'")
from helpers import tiny_lerobot

from rtjax import data
from rtjax.data.lerobot import metadata, spec


@pytest.mark.parametrize('version', ['v2.1', 'v3.0'])
def test_a_field_for_each_name_with_the_bounds_of_the_data(tmp_path, version):
  found = data.recorded_spec([str(tiny_lerobot.write(tmp_path / 'a', version, 'image'))])
  assert found.names == tuple(tiny_lerobot.JOINTS) and found.rate == tiny_lerobot.FPS
  np.testing.assert_allclose(found.bounds, [[0, 0, 0], [5, 1.1, 1]], rtol=1e-6)
  assert found.describe().endswith('gripper.pos 0 to 1, 10 a second')


@pytest.mark.parametrize(('names', 'fields'), [
    (['x', 'y', 'z'], {'x': 1, 'y': 1, 'z': 1}), ({'motors': ['x', 'y', 'z']}, {'x': 1, 'y': 1, 'z': 1}),
    ({'x': 0, 'z': 2, 'y': 1}, {'x': 1, 'y': 1, 'z': 1}), (['motors'], {'action': 3}), (['x', 'x', 'y'], {'action': 3}),
    ('', {'action': 3})])
def test_names_in_all_their_forms(tmp_path, names, fields):
  folder = tiny_lerobot.write(tmp_path / 'a', 'v2.1', 'image', [3], names)
  assert spec.field_sizes(metadata.load(str(folder))) == fields


def test_a_number_that_never_changes_has_bounds(tmp_path):
  found = data.recorded_spec([str(tiny_lerobot.write(tmp_path / 'a', 'v2.1', 'image', [4]))])
  np.testing.assert_allclose(found.bounds, [[-1, 0, 0], [1, 0.3, 1]], rtol=1e-6)
