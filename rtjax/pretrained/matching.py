"""Conversion of a reference implementation's variables into a model of rtjax."""
from collections.abc import Mapping

import numpy as np

from rtjax.models import PolicyConfig, PolicyModel, abstract, from_values, parameters

Names = list[tuple[str, str | None]]
"""(name in the reference, name in rtjax, or None for a variable that rtjax does not use)."""


def build(config: PolicyConfig, values: Mapping[str, np.ndarray], names: Names, source: str, *,
          constants: Mapping[str, np.ndarray] | None = None) -> PolicyModel:
  """Return a model with the reference's values.

  Args:
    values: the reference's variables by its names.
    names: see `Names`; complete. Values are only reshaped: a 1x1 convolution is a matrix here, and a depthwise kernel
      has no last axis.
    source: file of the values, for errors.
    constants: variables of the model that the reference keeps in its code.

  Raises:
    ValueError: names the variables that are missing, unknown or of another shape.
  """
  shapes = parameters.shapes(abstract(config))
  expected = {theirs: shapes[ours] if ours else np.shape(values.get(theirs, ())) for theirs, ours in names}
  given = {theirs: np.shape(value) for theirs, value in values.items()}
  given |= {theirs: shape for theirs, shape in expected.items()
            if theirs in given and _squeeze(given[theirs]) == _squeeze(shape)}
  parameters.check(expected, given, f'the variables of {source}')
  converted = {ours: values[theirs].reshape(shapes[ours]) for theirs, ours in names if ours}
  return from_values(config, {**converted, **(constants or {})})


def _squeeze(shape: tuple[int, ...]) -> tuple[int, ...]:
  return tuple(n for n in shape if n != 1)
