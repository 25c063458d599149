"""The ActionSpec that datasets carry in their metadata."""
from collections.abc import Sequence

from rtjax.actions import ActionSpec
from rtjax.data import catalog, names
from rtjax.data.rlds import adapters


def recorded_spec(datasets: Sequence[str]) -> ActionSpec | None:
  """Return the ActionSpec of all datasets; None if one carries none.

  Raises:
    FileNotFoundError, ValueError: a dataset cannot be opened, or two carry different ones.
  """
  specs = {name: _spec(name) for name in datasets}
  found = {spec: name for name, spec in specs.items() if spec}
  if len(found) > 1:
    listed = '; '.join(f'{name}: {spec.describe()}' for spec, name in found.items())
    raise ValueError(f'the datasets carry different ActionSpecs ({listed}). Choose one for all with '
                     '--model.action-spec: a name, or a JSON file such as the action_spec.json of one of them.')
  return None if None in specs.values() else next(iter(found), None)


def _spec(name: str) -> ActionSpec | None:
  if not names.is_lerobot(name):
    return adapters.stored_spec(catalog.open_builder(name).info.metadata)
  from rtjax.data.lerobot import spec  # imports pyarrow
  return spec.recorded_spec(name)
