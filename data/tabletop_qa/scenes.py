"""Sampler of images of the tabletop simulator and of their content.

A scene is the initial state of a task, or a later one of an expert's episode. The tasks are those of the robot data and
held-out ones with other objects and combinations. Tables, walls and light are those of training data. Visibility is
measured in pixels, object states are read off the physics.
"""
import dataclasses
import math

import numpy as np

from rtjax.envs.tabletop import experts, layout, tasks
from rtjax.envs.tabletop.env import target_pose
from rtjax.envs.tabletop.objects import KINDS
from rtjax.envs.tabletop.rays import Rays
from rtjax.envs.tabletop.render import make_renderer
from rtjax.envs.tabletop.scene import BOWL, CAMERAS
from rtjax.envs.tabletop.splits import SPLITS, Split
from rtjax.envs.tabletop.world import DRAWER, TABLE, PhysicsError, State, World

GRIPPER = 'gripper'

_HELD_OUT_SKILLS = SPLITS['unseen_objects'].skills
_ANIMAL_SKILLS = ('pick', 'move_near', 'put_into', 'take_out')  # they do not stand
# Weights of splits. More objects than in robot data make questions harder to answer without the image.
_SPLITS: tuple[tuple[float, Split], ...] = (
    (0.3, Split(distractors=(1, 4))),
    (0.15, Split(held_out='instruction', skills=_HELD_OUT_SKILLS, distractors=(1, 4))),
    (0.25, Split(held_out='object', skills=_HELD_OUT_SKILLS, distractors=(1, 4))),
    (0.1, Split(held_out='animal', skills=_ANIMAL_SKILLS, distractors=(1, 4))),
    (0.2, Split(lookalikes=True, skills=('pick', 'move_near'), distractors=(3, 5))))
_PICKS = 0.3  # share of scenes of the skill pick, so that enough of them show a held object
_AT_START, _MAX_STEPS = 0.3, 26
_TRIES = 50
# An object counts as visible from this share of its unoccluded pixels, and this share of the image's pixels.
_VISIBLE, _VISIBLE_PIXELS = 0.5, 0.0015
# It counts as hidden up to this share of its unoccluded pixels.
_HIDDEN = 0.04


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
  """Parameters that determine the images and questions.

  Attributes:
    seed: random seed of the scenes.
    image_size: (height, width).
    renderer: 'rays' or 'gl'.
  """
  seed: int = 0
  image_size: tuple[int, int] = (96, 96)
  renderer: str = 'rays'


@dataclasses.dataclass(frozen=True)
class VisibleObject:
  """Object, or the bowl, that is clearly visible.

  Attributes:
    name: 'red cube', or 'bowl'.
    kind, colour: 'cube' and 'red'; the bowl has no colour, because no single word fits.
    position: position of its centre, m, in the robot's axes. The camera looks along -x: +y is the image's right, and a
      larger x is nearer to the camera.
    centre: centre of its visible pixels, as shares of the image's width from the left and of its height from the top.
    location: 'gripper', 'bowl', 'drawer', 'table', or '' if none of them is certain.
    pose: 'upright', 'lying', or '' for other poses and for kinds that do not stand.
  """
  name: str
  kind: str
  colour: str
  position: np.ndarray
  centre: tuple[float, float]
  location: str
  pose: str


@dataclasses.dataclass(frozen=True)
class SceneView:
  """Content of an image.

  Attributes:
    visible: clearly visible objects and the bowl, from left to right.
    partial: (kind, colour) of partly visible objects; no answer may depend on them.
    hidden: names of invisible objects. They are present nevertheless, so no false caption may name them.
    held: name of the held object, '' for none, None if the gripper only touches one.
    drawer: 'open', 'closed', or '' in between.
  """
  visible: tuple[VisibleObject, ...]
  partial: tuple[tuple[str, str], ...]
  hidden: tuple[str, ...]
  held: str | None
  drawer: str

  @property
  def objects(self) -> tuple[VisibleObject, ...]:
    """Visible objects without the bowl."""
    return tuple(obj for obj in self.visible if obj.name != BOWL)

  @property
  def present(self) -> set[str]:
    """Names of all objects, visible or not."""
    return {obj.name for obj in self.visible} | {_name(*part) for part in self.partial} | set(self.hidden)


class SceneSampler:
  """Sampler of scenes and their images."""

  def __init__(self, config: GenerationConfig):
    self._config = config
    self._renderer = make_renderer(config.renderer, config.image_size)
    self._rays = Rays(config.image_size)  # measures visibility for every renderer

  def sample(self, number: int) -> tuple[np.ndarray, SceneView, np.random.Generator]:
    """Sample a scene, determined by (seed, number).

    Returns:
      The image uint8 [H, W, 3], its content, and a random generator for its questions.
    """
    rng = np.random.default_rng((self._config.seed, number))
    for _ in range(_TRIES):
      episode = _episode(rng)
      world = World(episode.scene)
      if not layout.is_valid_start(episode, world.state()):
        continue
      try:
        _run_expert(episode, world, rng)
      except PhysicsError:
        continue
      self._renderer.start(world.model)
      return self._renderer.render(world.data, CAMERAS[0]), self._view(world), rng
    raise RuntimeError(f'no valid scene in {_TRIES} samples for number {number}; choose another seed.')

  def close(self) -> None:
    self._renderer.close()

  def _view(self, world: World) -> SceneView:
    state = world.state()
    visible, partial, hidden = [], [], []
    for name, (mask, unoccluded) in self._masks(world).items():
      count = int(mask.sum())
      kind, colour = (BOWL, '') if name == BOWL else (name.split()[1], name.split()[0])
      if unoccluded and not _is_cut_off(mask) and count >= max(_VISIBLE * unoccluded, _VISIBLE_PIXELS * mask.size):
        visible.append(_visible_object(name, kind, colour, mask, state))
      elif count <= _HIDDEN * unoccluded:
        hidden.append(name)
      else:
        partial.append((kind, colour))
    held = state.held or (None if state.touched & set(state.poses) else '')
    drawer = 'open' if state.drawer > 0.08 else 'closed' if state.drawer < tasks.DRAWER_CLOSED else ''
    return SceneView(tuple(sorted(visible, key=lambda obj: obj.centre)), tuple(partial), tuple(hidden), held, drawer)

  def _masks(self, world: World) -> dict[str, tuple[np.ndarray, int]]:
    """Compute each object's visible pixels [H, W] and number of unoccluded pixels."""
    model, camera = world.model, CAMERAS[0]
    self._rays.start(model)
    owner = np.append(model.geom_bodyid, -1)
    bodies = owner[self._rays.geoms(world.data, camera)]
    groups, masks = model.geom_group.copy(), {}
    for name in world.names:
      body = model.body(name).id
      model.geom_group[:] = np.where(model.geom_bodyid == body, groups, 4)  # rays pass through group 4
      masks[name] = bodies == body, int((owner[self._rays.geoms(world.data, camera)] == body).sum())
    model.geom_group[:] = groups
    return masks


def _is_cut_off(mask: np.ndarray) -> bool:
  """Return whether an object touches the image's edge."""
  return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())


def _episode(rng: np.random.Generator) -> layout.Episode:
  weights = np.array([weight for weight, _ in _SPLITS])
  split = _SPLITS[rng.choice(len(_SPLITS), p=weights / weights.sum())][1]
  return layout.sample(split, rng, 'pick' if rng.random() < _PICKS else None)


def _run_expert(episode: layout.Episode, world: World, rng: np.random.Generator) -> None:
  """Run the expert for a random number of steps, possibly none."""
  if rng.random() < _AT_START:
    return
  expert = experts.get(episode.task)
  for _ in range(int(rng.integers(1, _MAX_STEPS + 1))):
    state = world.state()
    action = expert(state)
    world.step(*target_pose(state, action), bool(action[6] > 0.5))


def _visible_object(name: str, kind: str, colour: str, mask: np.ndarray, state: State) -> VisibleObject:
  rows, columns = np.nonzero(mask)
  centre = float(columns.mean() + 0.5) / mask.shape[1], float(rows.mean() + 0.5) / mask.shape[0]
  return VisibleObject(name, kind, colour, state.poses[name].position, centre, _location(name, state),
                       _pose(name, kind, state))


def _location(name: str, state: State) -> str:
  if name == BOWL:
    return TABLE
  if state.held == name:
    return GRIPPER if not state.supports[name] & {TABLE, BOWL, DRAWER} else ''
  for container in (BOWL, DRAWER):
    if container in state.poses.keys() | {DRAWER} and tasks.inside(container, name, state):
      return container
  at_rest = state.supports[name] == {TABLE} and state.poses[name].speed < 0.05
  return TABLE if at_rest and name not in state.touched else ''


def _pose(name: str, kind: str, state: State) -> str:
  if name == BOWL or not KINDS[kind].stands or name in state.touched:
    return ''
  tilt = state.poses[name].tilt
  return 'upright' if tilt < math.radians(12) else 'lying' if abs(tilt - math.pi / 2) < math.radians(15) else ''


def _name(kind: str, colour: str) -> str:
  return f'{colour} {kind}'.strip()
