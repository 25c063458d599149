"""Environments of an evaluation, opened by name."""
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium

from rtjax import envs
from rtjax.actions import ActionSpec
from rtjax.evaluation.closed_loop.error_catching import ErrorCatchingEnv
from rtjax.evaluation.closed_loop.protocol import FIRST_SEED
from rtjax.runtime import interrupt

Splits = Mapping[str, Sequence[str]]
"""Split -> its skills; no skills where the seed alone determines the task."""


@dataclasses.dataclass(frozen=True)
class EvalEnvironment:
  """Environment of an evaluation.

  Attributes:
    name, settings: as shown in the report.
    make: creates one instance, given `split`; picklable.
    splits: the splits and skills to evaluate.
    action_spec, control_hz, max_steps: of the environment.
  """
  name: str
  settings: Mapping[str, Any]
  make: Callable[..., gymnasium.Env]
  splits: Splits
  action_spec: ActionSpec
  control_hz: float
  max_steps: int

  @contextlib.contextmanager
  def vector(self, count: int) -> Iterator[gymnasium.vector.AsyncVectorEnv]:
    """Open `count` error-catching environments, each in its own process."""
    with interrupt.masked():
      vector = envs.make_vector(functools.partial(ErrorCatchingEnv, self.make, next(iter(self.splits))), count)
    try:
      vector.reset()  # starts no episode, but gives every environment an observation to be stacked
      yield vector
    finally:
      vector.close(terminate=True)

  def sample_instruction(self) -> str:
    """Return the instruction of a fixed episode, for the blind baseline."""
    split, skills = next(iter(self.splits.items()))
    env: Any = self.make(split=split)
    try:
      return env.reset(seed=FIRST_SEED - 1, options={'skill': skills[0]} if skills else None)[0]['instruction']
    finally:
      env.close()


def choose_splits(name: str, splits: Sequence[str], skills: Sequence[str]) -> Splits:
  """Return the splits and skills to evaluate in the environment called `name`.

  Args:
    splits, skills: names; empty = all.

  Raises:
    ValueError: unknown environment, split or skill, or the simulator is missing.
  """
  try:
    known = envs.splits(name)
  except ImportError as error:
    raise ValueError(str(error)) from error
  all_skills = list(dict.fromkeys(skill for names in known.values() for skill in names))
  for label, requested, expected in (('split', splits, list(known)), ('skill', skills, all_skills)):
    for one in requested:
      envs.require_known(label, one, expected)
  chosen = {split: tuple(skill for skill in known[split] if not skills or skill in skills) for split in splits or known}
  chosen = {split: names for split, names in chosen.items() if names or not known[split]}
  if not chosen:
    raise ValueError(f'the splits {list(splits)} have none of the skills {list(skills)}.')
  return chosen


def open_environment(name: str, splits: Splits, settings: Mapping[str, Any]) -> EvalEnvironment:
  """Open an environment by name, and start one episode to detect errors.

  Args:
    splits: from `choose_splits`.
    settings: of `rtjax.envs.make`, such as image_size and renderer. The report records the renderer in any case, and
      the environment's `render_settings`, if it has any.

  Raises:
    ValueError: there is no such renderer, or the environment does not run on this machine.
  """
  make = functools.partial(envs.make, name, **settings)
  try:
    env: Any = make(split=next(iter(splits)))
    try:
      env.reset(seed=0)
    finally:
      env.close()
  except (ImportError, RuntimeError) as error:
    raise ValueError(str(error)) from error
  # A path on this machine is no part of the protocol; the environment names what was found there.
  recorded = {key: value for key, value in settings.items() if key != 'path'}
  recorded |= {'renderer': env.renderer_name, **getattr(env, 'render_settings', {}), **getattr(env, 'protocol', {})}
  return EvalEnvironment(name, recorded, make, splits, env.action_spec, env.control_hz, env.max_steps)
