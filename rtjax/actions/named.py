"""ActionSpecs of robots, simulators and released models, by name."""
import dataclasses
import pathlib

import numpy as np

from rtjax.actions.field import ActionField, classes
from rtjax.actions.spec import ActionSpec
from rtjax.runtime import limits, serialization
from rtjax.runtime.suggest import did_you_mean

# The 11 tokens of RT-1 (policy_specs.json of the released policies; order of google-deepmind/open_x_embodiment,
# models/rt1.py). The robot's x axis points forward and y to its left, so a mirrored image negates y, and of the
# rotations (axial vectors) roll and yaw.
RT1 = ActionSpec((
    classes('terminate_episode', 3),
    ActionField('world_vector', 3, -1.0, 1.0, unit='m', frame='base', mirror=(1, -1, 1)),
    ActionField('rotation_delta', 3, -np.pi / 2, np.pi / 2, unit='rad', frame='base', mirror=(-1, 1, -1)),
    ActionField('gripper_closedness_action', 1, -1.0, 1.0),
    ActionField('base_displacement_vertical_rotation', 1, -np.pi, np.pi, unit='rad', frame='base', mirror=-1),
    ActionField('base_displacement_vector', 2, -1.0, 1.0, unit='m', frame='base', mirror=(1, -1)),
))

# RT-1-X: the same fields in 512 bins, positions in twice the range; a token that is no class falls back to the last
# class (open_x_embodiment, models/rt1.py and rt1_inference_example.py).
RT1_X = ActionSpec((
    dataclasses.replace(RT1.fields[0], fallback=2),
    dataclasses.replace(RT1.fields[1], bins=512, low=-2.0, high=2.0),
    *(dataclasses.replace(f, bins=512) for f in RT1.fields[2:])), vocab_size=512)

# Seven numbers of a table-top arm, as Bridge V2 and many RLDS datasets record them: deltas of the gripper's pose and
# the gripper's opening (1 open, 0 closed). The bounds hold what such arms do in one step at 3 to 5 Hz.
ARM_7D = ActionSpec((
    ActionField('translation', 3, -0.05, 0.05, unit='m', frame='base', mirror=(1, -1, 1)),
    ActionField('rotation', 3, -0.25, 0.25, unit='rad', frame='base', mirror=(-1, 1, -1)),
    ActionField('gripper', 1, 0.0, 1.0),
))

# Target pose of the gripper in the robot's frame, and closed (class 0) or open (class 1), the opening of arm7d as a
# class. Mirrored about the plane y = 0.
POSE_7D = ActionSpec((
    ActionField('position', 3, (-0.5, -0.5, 0.0), (0.5, 0.5, 0.8), unit='m', frame='base', mirror=(1, -1, 1)),
    ActionField('orientation', 3, -3.14, 3.14, unit='rad', frame='base', mirror=(-1, 1, -1)),
    classes('gripper', 2),
))

# Meta-World's four numbers as it takes and records them (its sawyer_xyz_env.py): changes of the gripper's target
# position, and the effort of its fingers (-1 opens, 1 closes). Its arm faces y.
METAWORLD = ActionSpec((
    ActionField('translation', 3, -1.0, 1.0, unit='cm', frame='base', mirror=(-1, 1, 1)),
    ActionField('gripper_effort', 1, -1.0, 1.0),
))

# LIBERO's seven numbers as robosuite's controller OSC_POSE takes them and the datasets record them (robosuite 1.4,
# controllers/config/osc_pose.json): changes of the gripper's pose, 1 is 0.05 m or 0.5 rad (axis-angle), and the effort
# of its fingers (-1 opens, 1 closes). The arm faces x.
LIBERO = ActionSpec((
    ActionField('osc_position', 3, -1.0, 1.0, unit='5 cm', frame='base', mirror=(1, -1, 1)),
    ActionField('osc_rotation', 3, -1.0, 1.0, unit='0.5 rad', frame='base', mirror=(-1, 1, -1)),
    ActionField('gripper_effort', 1, -1.0, 1.0),
))

# Language-Table's two numbers: changes of the effector's target x and y, within its action space (language_table.py of
# its source). Mirrored about the plane y = 0, on which its camera stands.
LANGUAGE_TABLE = ActionSpec((ActionField('planar_translation', 2, -0.1, 0.1, unit='m', frame='base', mirror=(1, -1)),))

SPECS = {'rt1': RT1, 'rt1_x': RT1_X, 'arm7d': ARM_7D, 'pose7d': POSE_7D, 'metaworld': METAWORLD, 'libero': LIBERO,
         'language_table': LANGUAGE_TABLE}


def get(name: str) -> ActionSpec:
  """Return the ActionSpec of `SPECS`, or of a JSON file.

  Raises:
    ValueError: there is none of this name, or the file holds none.
    OSError: the file cannot be read.
  """
  if name.endswith('.json'):
    return _read(pathlib.Path(name))
  if name not in SPECS:
    raise ValueError(f'unknown action spec {name!r}, expected one of {sorted(SPECS)}, or a file that ends in .json.'
                     f'{did_you_mean(name, SPECS)}')
  return SPECS[name]


def _read(path: pathlib.Path) -> ActionSpec:
  try:
    return serialization.from_json(limits.read_json(path), ActionSpec)
  except (TypeError, ValueError) as error:
    raise ValueError(f'{path} is no ActionSpec: {error} Expected an object such as '
                     '{"fields": [{"name": "joints", "size": 6, "low": -3.2, "high": 3.2, "unit": "rad"}, ...], '
                     '"vocab_size": 256}.') from error
