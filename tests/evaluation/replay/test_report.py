"""Files of replay reports."""
import base64
import json

import numpy as np
import pytest
from flax import nnx
from helpers import replays
from helpers.html_page import ParsedPage

from rtjax import models
from rtjax.checkpoints import PolicyMetadata
from rtjax.evaluation.replay import episodes, report
from rtjax.evaluation.replay.page import page
from rtjax.policies.policy import Policy
from rtjax.policies.recorded import open_dataset


def make_replays(count: int) -> list:
  """Return replays; the i-th has i correct tokens of 3 * count."""
  draw = np.random.default_rng(0)
  made = []
  for i in range(count):
    recorded = np.stack([draw.integers(0, 3, count), draw.integers(0, 5, count), draw.integers(0, 5, count)], -1)
    wrong = (np.arange(3 * count) >= i).reshape(count, 3)
    made.append(replays.replay(recorded, np.where(wrong, (recorded + 1) % 3, recorded), number=10 + i,
                               instruction=f'<take> & "give" {i}'))
  return made


@pytest.fixture(scope='module')
def policy():
  model = models.build(replays.tiny_config(replays.SPEC), seed=0)
  return Policy(model, PolicyMetadata(path='somewhere', step=3))


@pytest.fixture(scope='module')
def dataset(policy, tmp_path_factory):
  return open_dataset(policy, str(replays.bridge(tmp_path_factory.mktemp('data'))), 'val')


def test_report_describes_policy_and_dataset(policy, dataset):
  result = report.build(policy, dataset, make_replays(4))
  weights = nnx.state(models.build(policy.config, seed=0), nnx.Param)
  assert result['model']['parameters'] == sum(leaf.size for _, leaf in nnx.to_flat_state(weights))
  assert models.config_from_json(result['model']['config']) == policy.config
  assert result['checkpoint'] == {'path': 'somewhere', 'step': 3}
  assert result['dataset'] == {'path': dataset.name, 'name': 'bridge_dataset', 'split': 'val', 'episodes_in_split': 3}
  assert (result['episodes'], result['steps']) == (4, 16)


def test_no_replays(policy, dataset):
  with pytest.raises(ValueError, match='have no steps'):
    report.build(policy, dataset, [])


@pytest.mark.parametrize(('count', 'show'), [(3, 8), (9, 4), (5, 0)])
def test_files(policy, dataset, tmp_path, count, show):
  made = make_replays(count)
  result = report.build(policy, dataset, made)
  path = report.write(tmp_path, result, made, replays.SPEC, show)
  assert path == tmp_path / 'report.html'
  # A configuration has tuples, which JSON returns as lists.
  assert json.loads((tmp_path / 'report.json').read_text()) == json.loads(json.dumps(result))

  text = path.read_text(encoding='utf-8')
  parsed = ParsedPage(text)
  shown = [made[i] for _, i in episodes.choose([e['accuracy'] for e in result['by_episode']], show)]
  assert parsed.ids == [f'episode-{r.number}' for r in shown]
  assert len(shown) == min(count, show)
  for r in shown:
    assert f'Episode {r.number}: {r.instruction}' in parsed.text
  if 0 < show < count:
    assert f'{count - show} episodes not shown' in parsed.text
  assert 'http' not in text and 'script' not in parsed.tags and '@import' not in text and 'url(' not in text
  images = [base64.b64decode(source.removeprefix('data:image/jpeg;base64,')) for source in parsed.sources]
  assert images == [jpeg for r in shown for _, jpeg in r.frames]


def test_page_has_the_figures(policy, dataset):
  made = make_replays(6)
  result = report.build(policy, dataset, made)
  text = ParsedPage(page(result, made, replays.SPEC, 2)).text.replace('\N{NO-BREAK SPACE}', ' ')
  # 0 + 1 + ... + 5 of 6 * 18 tokens.
  assert '13.9 %of action tokens correct' in text
  assert 'move[0] m' in text and '6 episodes, 36 steps' in text
  for d in result['dimensions']:
    assert f'{100 * d["accuracy"]:.1f} %' in text
    assert d['l1'] is None or f'{d["l1"]:#.3g}' in text
