"""The ActionSpec that datasets carry in their metadata."""
from collections.abc import Sequence

from rtjax.actions import ActionSpec
from rtjax.data import catalog
from rtjax.data.rlds import adapters


def recorded_spec(datasets: Sequence[str]) -> ActionSpec | None:
  """Return the ActionSpec of all datasets; None if one carries none.

  Raises:
    FileNotFoundError, ValueError: a dataset cannot be opened, or two carry different ones.
  """
  specs = {name: adapters.stored_spec(catalog.open_builder(name).info.metadata) for name in datasets}
  found = {spec: name for name, spec in specs.items() if spec}
  if len(found) > 1:
    listed = '; '.join(f'{name}: {spec.describe()}' for spec, name in found.items())
    raise ValueError(f'the datasets carry different ActionSpecs ({listed}). Choose one for all with '
                     '--model.action-spec: a name, or a JSON file such as the action_spec.json of one of them.')
  return None if None in specs.values() else next(iter(found), None)
