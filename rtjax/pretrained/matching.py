"""From the variables of a reference implementation, by its names, to a network of rtjax."""
from collections.abc import Mapping, Sequence

import numpy as np

from rtjax.models import Config, Model, abstract, from_values, parameters


def build(config: Config, values: Mapping[str, np.ndarray], pairs: Sequence[tuple[str, str | None]], what: str, *,
          constants: Mapping[str, np.ndarray] | None = None) -> Model:
  """A network with the reference's numbers.

  Args:
    values: the reference's variables by its names.
    pairs: (name in the reference, name in rtjax or None if unused), all there should be. Values are only reshaped: a
      1x1 convolution is a matrix here, and a depthwise kernel has no last axis.
    what: tells where the values come from, for errors.
    constants: variables of the network that the reference keeps in its code.

  Raises:
    ValueError: names the variables that are missing, unknown or of another shape.
  """
  ours = parameters.shapes(abstract(config))
  wanted = {name: ours[place] if place else np.shape(values.get(name, ())) for name, place in pairs}
  shapes = {name: wanted[name] if name in wanted and _squeezed(v.shape) == _squeezed(wanted[name]) else v.shape
            for name, v in values.items()}
  parameters.check(wanted, shapes, f'the variables of {what}')
  placed = {place: values[name].reshape(ours[place]) for name, place in pairs if place}
  return from_values(config, {**placed, **(constants or {})})


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
  return tuple(n for n in shape if n != 1)
