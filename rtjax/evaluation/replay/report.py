"""Writes what a replay found: report.json for programs, and report.html for people, a page that needs nothing else."""
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from flax import nnx

from rtjax import models
from rtjax.actions import ActionSpec
from rtjax.data.rlds.episodes import Dataset
from rtjax.evaluation.provenance import provenance, step_of
from rtjax.evaluation.replay.accuracy import summarize
from rtjax.evaluation.replay.page import page
from rtjax.evaluation.replay.replay import Replay
from rtjax.policies.policy import Policy
from rtjax.training.state import count

FORMAT = 1


def build(policy: Policy, checkpoint: str, dataset: Dataset, replays: Sequence[Replay]) -> dict[str, Any]:
  """The content of report.json.

  Returns:
    'format', 'created' (ISO 8601, UTC), 'rtjax' (version), 'machine', 'checkpoint', 'model', 'dataset', and the figures
    of `metrics.summarize`.

  Raises:
    ValueError: there is nothing to report on.
  """
  if not replays:
    raise ValueError(f'{dataset.name}: the episodes of split {dataset.split!r} that were asked for have no steps.')
  config = policy.config
  return {
      'format': FORMAT,
      **provenance(),
      'checkpoint': {'path': checkpoint, 'step': step_of(checkpoint)},
      'model': {'parameters': count(nnx.state(models.abstract(config), nnx.Param)), 'horizon': config.horizon,
                'image_size': list(config.image_size), 'config': config.to_dict()},
      'dataset': {'path': dataset.name, 'name': dataset.adapter.name, 'split': dataset.split,
                  'episodes_in_split': dataset.num_episodes},
      **summarize(replays, config.action_spec)}


def write(folder: pathlib.Path, report: dict[str, Any], replays: Sequence[Replay], spec: ActionSpec,
          show: int) -> pathlib.Path:
  """Writes both files; returns the page's path. `show` episodes get curves and pictures on it."""
  (folder / 'report.json').write_text(json.dumps(report, indent=1) + '\n')
  html = folder / 'report.html'
  html.write_text(page(report, replays, spec, show), encoding='utf-8')
  return html
