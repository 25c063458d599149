"""Files of a replay report: JSON and HTML."""
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from flax import nnx

from rtjax.actions import ActionSpec
from rtjax.data.episode import EpisodeSource
from rtjax.evaluation.provenance import provenance
from rtjax.evaluation.replay.accuracy import summarize
from rtjax.evaluation.replay.page import page
from rtjax.evaluation.replay.replay import Replay
from rtjax.models import config_to_json, parameters
from rtjax.policies.policy import Policy

FORMAT = 2


def build(policy: Policy, dataset: EpisodeSource, replays: Sequence[Replay]) -> dict[str, Any]:
  """Build the content of report.json.

  Returns:
    'format', 'created' (ISO 8601, UTC), 'rtjax' (version), 'machine', 'checkpoint', 'model', 'dataset', and the figures
    of `accuracy.summarize`.

  Raises:
    ValueError: there are no replays.
  """
  if not replays:
    raise ValueError(f'{dataset.name}: the requested episodes of split {dataset.split!r} have no steps.')
  config = policy.config
  return {
      'format': FORMAT,
      **provenance(),
      'checkpoint': {'path': policy.metadata.path, 'step': policy.metadata.step},
      'model': {'parameters': parameters.count(nnx.state(policy.model, nnx.Param)), 'horizon': config.horizon,
                'image_size': list(config.image_size), 'config': config_to_json(config)},
      'dataset': {'path': dataset.name, 'name': dataset.adapter.name, 'split': dataset.split,
                  'episodes_in_split': dataset.num_records},
      **summarize(replays, config.action_spec)}


def write(folder: pathlib.Path, report: dict[str, Any], replays: Sequence[Replay], spec: ActionSpec,
          show: int) -> pathlib.Path:
  """Write report.json and the self-contained report.html.

  Args:
    show: number of episodes on the page.

  Returns:
    The path of the page.
  """
  (folder / 'report.json').write_text(json.dumps(report, indent=1) + '\n')
  path = folder / 'report.html'
  path.write_text(page(report, replays, spec, show), encoding='utf-8')
  return path
