"""Options of the converter: names of datasets, and combinations that are refused."""
import subprocess
import sys

import pytest
from helpers.paths import ROOT

from rtjax.data.convert.options import Options


def test_dataset_names(tmp_path):
  assert Options(logs=tmp_path, name='my_robot').dataset_name() == 'my_robot'
  with pytest.raises(ValueError, match="such as 'my_robot_2'"):
    Options(logs=tmp_path, name='My robot-2').dataset_name()
  with pytest.raises(ValueError, match="such as 'my_bridge'"):
    Options(logs=tmp_path, name='bridge').dataset_name()


@pytest.mark.parametrize(('changed', 'words'), [
    ({'poses': 'pose'}, 'give both or neither'), ({'val_share': 1.0}, 'val-share is 1.0'),
    ({'views': ('wrist',)}, "'wrist': expected NAME=KEY"), ({'views': ('image=a',)}, 'the main camera'),
    ({'views': ('a=b', 'a=c')}, 'each name once'),
    ({'gripper_range': (1, 1)}, 'two different finite'), ({'gripper_range': (0, float('nan'))}, 'finite'),
    ({'action_spec': 'arm7'}, "Did you mean 'arm7d'"),
    ({'poses': 'p', 'gripper': 'g', 'action_spec': 'rt1'}, 'numbers of arm7d'),
    ({'action_spec': 'rt1', 'gripper_range': (1, 0)}, "needs a field 'gripper'")])
def test_wrong_options(tmp_path, changed, words):
  with pytest.raises(ValueError, match=words):
    Options(logs=tmp_path, **changed)


def test_help_needs_no_tensorflow():
  code = ('import sys; from rtjax.data.convert import __main__; from rtjax.data.convert.options import Options\n'
          'assert not {"tensorflow", "h5py"} & set(sys.modules)')
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
