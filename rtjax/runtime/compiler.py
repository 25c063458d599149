"""Faster XLA options than its defaults, and estimates of compile times."""
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

# Measured on two CPU cores, training and policy steps of the presets `reach` and `rt1_tabletop`: 1.9 to 4.2 ms.
_SECONDS_PER_OPERATION = 3e-3


def options(platform: str = '') -> dict[str, int]:
  """Return `compiler_options` of `jax.jit` for expensive functions.

  Args:
    platform: of the devices to compile for; empty: the default one.

  On CPUs, vectors of full width: by default XLA uses half of AVX-512's (bench/RESULTS.md).
  """
  return {'xla_cpu_prefer_vector_width': 512} if (platform or jax.default_backend()) == 'cpu' else {}


def announcement(name: str, function: Callable[..., Any], *arguments: Any, programs: int = 1) -> str:
  """Return the line to print before a function compiles.

  Args:
    name: of the function.
    function: from `jax.jit`; a call with these arguments later does not trace it again.
    arguments: of the call, arrays or their shapes.
    programs: number of times that it compiles, for several shapes.
  """
  seconds = programs * _SECONDS_PER_OPERATION * _operations(function.trace(*arguments).jaxpr.jaxpr)  # type: ignore
  return f'Compiling {name}, about {max(seconds, 1):.0f} s'


def announced(name: str, function: Callable[..., Any], show: Callable[[str], object]) -> Callable[..., Any]:
  """Return a jitted function that shows its `announcement` at the first call."""
  shown = False

  def call(*arguments: Any) -> Any:
    nonlocal shown
    if not shown:
      shown = True
      show(announcement(name, function, *arguments))
    return function(*arguments)
  return call


def _operations(program: core.Jaxpr) -> int:
  """Count the operations of a program and of those inside it."""
  return len(program.eqns) + sum(map(_operations, core.subjaxprs(program)))
