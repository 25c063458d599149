"""Options of the converter. Imports nothing heavy, so that --help is fast."""
import dataclasses
import math
import pathlib
import re
from typing import Annotated, Literal

import tyro
from etils import epath

from rtjax import actions
from rtjax.actions import ActionSpec
from rtjax.data.beam import Flag
from rtjax.data.rlds import adapters
from rtjax.language import instructions

TRANSLATION_UNITS = {'m': 1.0, 'cm': 1e-2, 'mm': 1e-3}
ROTATION_UNITS = {'rad': 1.0, 'deg': 0.017453292519943295}


@dataclasses.dataclass(frozen=True)
class Options:
  """Convert robot logs to an RLDS or LeRobot dataset.

  All episodes are checked first; the dataset is written if there are no errors.

  LOGS is a folder of episodes, each an .npz file, an HDF5 file, or a folder of images with a steps.csv; or an HDF5 file
  with a group for each. A KEY names an entry: an array, an HDF5 path (obs/front), a column. It may select a part
  (state[:6], state[6]) or join several (x,y,z). A missing entry is an error that lists those there are.

  With --poses an action is the change to the next pose in the base frame and the gripper's next opening; the last step
  has none and is left out.
  """
  logs: tyro.conf.Positional[Annotated[pathlib.Path, tyro.conf.arg(metavar='LOGS')]]
  """Folder or HDF5 file that holds the episodes."""
  name: str = ''
  """Name of the dataset; empty: that of LOGS."""
  out: epath.Path = dataclasses.field(default_factory=lambda: epath.Path('data/built'))
  """Folder to write into; the dataset becomes OUT/NAME/1.0.0, or OUT/NAME for LeRobot."""
  to: Literal['rlds', 'lerobot'] = 'rlds'
  """Kind of the dataset. For lerobot (v3.0), LOGS may also be an RLDS or LeRobot dataset."""
  fps: float = 0.0
  """Steps a second, which LeRobot needs; 0 takes the rate of the ActionSpec."""
  frames: Literal['video', 'png', 'jpeg'] = 'video'
  """For lerobot: frames as H.264 videos, or as images in the tables; png loses nothing."""
  check: tyro.conf.FlagCreatePairsOff[bool] = False
  """Check only, write nothing."""
  layout: Literal['keys', 'libero'] = 'keys'
  """keys: the entries named below. libero: the official human demonstrations of LIBERO (TASK_demo.hdf5), whose entries,
  instructions and ActionSpec are known; --views wrist=wrist adds the wrist camera, --image both joins both cameras."""
  image: Annotated[str, tyro.conf.arg(metavar='KEY')] = 'images'
  """Images: uint8 [steps, H, W, 3], encoded, or the folder that holds them in an episode's folder."""
  views: Annotated[tuple[str, ...], tyro.conf.arg(metavar='NAME=KEY')] = ()
  """Images of further cameras: wrist=wrist left=obs/left. Training reads them with --pipeline.views image wrist."""
  action: Annotated[str, tyro.conf.arg(metavar='KEY')] = 'action'
  """Numbers of the ActionSpec. For arm7d: changes of x y z and of roll pitch yaw, and the gripper's opening."""
  poses: Annotated[str, tyro.conf.arg(metavar='KEY')] = ''
  """In place of actions: x y z with roll pitch yaw, or with a quaternion x y z w; actions are their changes."""
  gripper: Annotated[str, tyro.conf.arg(metavar='KEY')] = ''
  """With --poses: opening of the gripper."""
  instruction: Annotated[str, tyro.conf.arg(metavar='KEY')] = 'instruction'
  """Instruction: one text, or one per step."""
  task: str = ''
  """Instruction of all episodes, in place of --instruction: "pick up the cup"."""
  paraphrases: tyro.conf.FlagCreatePairsOff[bool] = False
  """The texts of --instruction (several entries, an array, or lines) are instructions for one task; training draws one
  of them for each epoch."""
  drop_idle: tyro.conf.FlagCreatePairsOff[bool] = False
  """Leave out steps that do nothing: every change (a number with a unit) within half a bin of zero, and all other
  numbers within half a bin of the step before. The last step of an episode stays."""
  state: Annotated[str, tyro.conf.arg(metavar='KEY')] = 'state'
  """Robot state, unchanged; left out where no entry has the default name."""
  reward: Annotated[str, tyro.conf.arg(metavar='KEY')] = 'reward'
  """Reward; where no entry has the default name, 1 in the last step and 0 before."""
  time: Annotated[str, tyro.conf.arg(metavar='KEY')] = 'timestamp'
  """Time of each step; only used to report steps that are not evenly spaced."""
  translation_unit: Literal['m', 'cm', 'mm'] = 'm'
  """Unit of the positions in --action or --poses."""
  rotation_unit: Literal['rad', 'deg'] = 'rad'
  """Unit of the angles in --action or --poses."""
  gripper_range: Annotated[tuple[float, float], tyro.conf.arg(metavar='CLOSED OPEN')] = (0.0, 1.0)
  """Values of a closed and an open gripper in the logs: 0 0.08 for a width in metres, 1 0 where 1 closes."""
  bgr: tyro.conf.FlagCreatePairsOff[bool] = False
  """Images are stored blue first, as in OpenCV."""
  image_format: Literal['jpeg', 'png'] = 'jpeg'
  """Format of the stored images; files of this format are copied unchanged."""
  action_spec: Annotated[str, tyro.conf.arg(metavar='SPEC')] = 'arm7d'
  """ActionSpec: arm7d, rt1, rt1_x, or a JSON file. The dataset keeps it, and train.py takes it from there."""
  bounds: Literal['spec', 'quantiles'] = 'spec'
  """Bounds of the actions: those of the ActionSpec, or the quantiles 0.1 % and 99.9 % of these logs."""
  encoder: str = instructions.HASHED_NGRAMS
  """Instruction encoder: built in, folder of a Universal Sentence Encoder, or an .npz table of vectors."""
  val_share: float = 0.1
  """Share of the episodes held out as the split val, rounded up; chosen by hash of their names."""
  beam: Flag = ''

  def __post_init__(self) -> None:
    if bool(self.poses) != bool(self.gripper):
      raise ValueError(f'--poses is {self.poses!r} and --gripper {self.gripper!r}: give both or neither. With --action '
                       'the gripper is among its numbers: --action motion,gripper.')
    if self.to == 'lerobot' and (self.beam or '://' in str(self.out)):
      raise ValueError('--to lerobot writes into a folder of this machine, without --beam: convert to rlds first, then '
                       'that dataset.')
    if not 0 <= self.val_share < 1:
      raise ValueError(f'--val-share is {self.val_share}, expected at least 0 and below 1.')
    if not all(map(math.isfinite, self.gripper_range)) or self.gripper_range[0] == self.gripper_range[1]:
      raise ValueError(f'--gripper-range is {self.gripper_range}, expected two different finite numbers.')
    if self.layout == 'libero' and (self.action_spec not in ('arm7d', 'libero') or self.poses):
      raise ValueError('--layout libero gives the numbers of its own ActionSpec: leave out --action-spec and --poses.')
    names = self.spec().names
    if self.poses and self.spec() != actions.ARM_7D:
      raise ValueError(f'--poses gives the numbers of arm7d, --action-spec is {self.action_spec!r}. Give actions.')
    if self.gripper_range != (0, 1) and 'gripper' not in names:
      raise ValueError(f"--gripper-range needs a field 'gripper', the ActionSpec {self.action_spec!r} has {names}.")

    self.cameras()

  def rate(self, spec: ActionSpec) -> float:
    """Return the steps a second.

    Raises:
      ValueError: neither the options nor the ActionSpec have them.
    """
    rate = self.fps or spec.rate or 0
    if not 0 < rate < 1e4:
      raise ValueError(f'--fps is {self.fps:g}, and the ActionSpec names no rate: a LeRobot dataset needs the steps a '
                       'second. Give those of the recording, such as --fps 5.')
    return rate

  def cameras(self) -> dict[str, str]:
    """Return the keys of `views` by the names of the cameras."""
    found: dict[str, str] = {}
    for view in self.views:
      name, _, key = view.partition('=')
      if not re.fullmatch('[a-z][a-z0-9_]*', name) or not key or name == 'image' or name in found:
        raise ValueError(f"--views {view!r}: expected NAME=KEY such as wrist=wrist, each name once, in small letters, "
                         "and not 'image', which is the main camera.")
      found[name] = key
    return found

  def spec(self) -> ActionSpec:
    """Return the ActionSpec that `action_spec` or `layout` names."""
    return actions.LIBERO if self.layout == 'libero' else actions.get(self.action_spec)

  def dataset_name(self) -> str:
    """Return the name of the dataset.

    Raises:
      ValueError: it is not valid for TFDS, or is that of an adapter.
    """
    name = self.name or self.logs.resolve().stem
    if not re.fullmatch(r'[a-z][a-z0-9_]*', name):
      fit = re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')
      raise ValueError(f'the dataset would be called {name!r}, expected small letters, digits and _, a letter first. '
                       f'Choose with --name, such as {fit if fit[:1].isalpha() else "robot_" + fit!r}.')
    if name in adapters.ADAPTERS and self.to == 'rlds':
      raise ValueError(f'{name!r} is the name of a known dataset with another layout. Choose another with --name, such '
                       f'as {"my_" + name!r}.')
    return name
