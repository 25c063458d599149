"""The page and its charts: what they show can be read back, and nothing is fetched from elsewhere."""
import base64
import itertools
import json
import re

import numpy as np
import pytest
from flax import nnx
from helpers import replays
from helpers.parsed import Parsed

from rtjax import models
from rtjax.evaluation import provenance
from rtjax.evaluation.html import charts
from rtjax.evaluation.replay import episodes, report
from rtjax.evaluation.replay.page import page
from rtjax.evaluation.replay.replay import open_dataset
from rtjax.policies.policy import Policy


def some_replays(count: int) -> list:
  """Episode i has i tokens right of 3 * count."""
  draw = np.random.default_rng(0)
  out = []
  for i in range(count):
    recorded = np.stack([draw.integers(0, 3, count), draw.integers(0, 5, count), draw.integers(0, 5, count)], -1)
    wrong = (np.arange(3 * count) >= i).reshape(count, 3)
    out.append(replays.replay(recorded, np.where(wrong, (recorded + 1) % 3, recorded), number=10 + i,
                              instruction=f'<take> & "give" {i}'))
  return out


@pytest.fixture(scope='module')
def policy():
  return Policy(models.build(replays.network(replays.SPEC), rngs=nnx.Rngs(0)))


@pytest.fixture(scope='module')
def dataset(policy, tmp_path_factory):
  return open_dataset(policy, str(replays.bridge(tmp_path_factory.mktemp('data'))), 'val')


def test_report_tells_what_was_judged(policy, dataset):
  found = report.build(policy, 'somewhere', dataset, some_replays(4))
  weights = nnx.state(models.build(policy.config, rngs=nnx.Rngs(0)), nnx.Param)
  assert found['model']['parameters'] == sum(leaf.size for _, leaf in nnx.to_flat_state(weights))
  assert models.config_from_dict(found['model']['config']) == policy.config
  assert found['checkpoint'] == {'path': 'somewhere', 'step': None}
  assert found['dataset'] == {'path': dataset.name, 'name': 'bridge_dataset', 'split': 'val', 'episodes_in_split': 3}
  assert (found['episodes'], found['steps']) == (4, 16)


def test_nothing_replayed(policy, dataset):
  with pytest.raises(ValueError, match='have no steps'):
    report.build(policy, 'somewhere', dataset, [])


@pytest.mark.parametrize(('count', 'show'), [(3, 8), (9, 4), (5, 0)])
def test_files(policy, dataset, tmp_path, count, show):
  made = some_replays(count)
  found = report.build(policy, 'somewhere', dataset, made)
  written = report.write(tmp_path, found, made, replays.SPEC, show)
  assert written == tmp_path / 'report.html'
  # A configuration has tuples, which JSON reads back as lists.
  assert json.loads((tmp_path / 'report.json').read_text()) == json.loads(json.dumps(found))

  text = written.read_text(encoding='utf-8')
  parsed = Parsed(text)
  shown = [made[i] for _, i in episodes.choose([e['accuracy'] for e in found['by_episode']], show)]
  assert parsed.ids == [f'episode-{r.number}' for r in shown]
  assert len(shown) == min(count, show)
  for r in shown:
    assert f'Episode {r.number}: {r.instruction}' in parsed.text
  if 0 < show < count:
    assert f'{count - show} episodes not shown' in parsed.text
  assert 'http' not in text and 'script' not in parsed.tags and '@import' not in text and 'url(' not in text
  pictures = [base64.b64decode(source.removeprefix('data:image/jpeg;base64,')) for source in parsed.sources]
  assert pictures == [jpeg for r in shown for _, jpeg in r.frames]


def test_page_has_the_figures(policy, dataset):
  made = some_replays(6)
  found = report.build(policy, 'somewhere', dataset, made)
  text = Parsed(page(found, made, replays.SPEC, 2)).text.replace('\N{NO-BREAK SPACE}', ' ')
  # 0 + 1 + ... + 5 of 6 * 18 tokens.
  assert '13.9 %of action tokens right' in text
  assert 'move[0] m' in text and '6 episodes, 36 steps' in text
  for d in found['dimensions']:
    assert f'{100 * d["accuracy"]:.1f} %' in text
    assert d['l1'] is None or f'{d["l1"]:#.3g}' in text


@pytest.mark.parametrize(('count', 'show'), list(itertools.product((1, 2, 7, 8, 9, 30), (0, 1, 2, 3, 8))))
def test_choice(count, show):
  accuracy = np.random.default_rng(count).permutation(count) / count
  chosen = episodes.choose(accuracy, show)
  values = [accuracy[i] for _, i in chosen]
  assert len(set(chosen)) == len(chosen) == min(count, show)
  assert values == sorted(values, reverse=True)
  if count <= show:
    assert {group for group, _ in chosen} <= {''}
    return
  ranks = {group: [count - 1 - round(accuracy[i] * count) for g, i in chosen if g == group]
           for group in ('best', 'median', 'worst')}
  assert ranks['best'] == list(range(len(ranks['best'])))
  assert ranks['worst'] == list(range(count - len(ranks['worst']), count))
  assert all(abs(rank - (count - 1) / 2) <= 2 for rank in ranks['median'])
  sizes = sorted(map(len, ranks.values()))
  assert sizes[-1] - sizes[0] <= 1


def test_curve_can_be_read_back():
  values = np.array([0.3, -0.2, 0.05, 0.0])
  axis = charts.axis_around(values, 0.1)
  points = re.search(r'points="(.*?)"', charts.line(values, axis, 'policy')).group(1).split()
  x, y = np.array([point.split(',') for point in points], float).T
  np.testing.assert_array_equal(x, [0.5, 1.5, 2.5, 3.5])
  np.testing.assert_allclose(axis.high - y / 100 * (axis.high - axis.low), values, atol=1e-4)


@pytest.mark.parametrize('seed', range(50))
def test_axis_holds_all_values_and_has_round_ticks(seed):
  draw = np.random.default_rng(seed)
  values = draw.normal(size=20) * 10 ** draw.uniform(-4, 4)
  axis = charts.axis_around(values, 1e-3)
  assert axis.low < values.min() and values.max() < axis.high and axis.high - axis.low > 1e-3
  assert 2 <= len(axis.ticks) <= 4
  assert all(axis.low <= tick <= axis.high for tick in axis.ticks)
  assert all(re.fullmatch(r'−?(0|[\d.]*\d|[\d.]+e[+−]\d+)', axis.label(tick)) for tick in axis.ticks)
  step = axis.ticks[1] - axis.ticks[0]
  np.testing.assert_allclose(np.diff(axis.ticks), step)
  assert float(f'{step:.5g}') == pytest.approx(float(f'{step:.1g}'))  # one digit


def test_axis_of_a_constant_spans_what_is_asked():
  axis = charts.axis_around(np.full(3, 2.0), 0.5)
  assert axis.low < 1.75 and axis.high > 2.25 and 2.0 in axis.ticks


def test_class_axis():
  assert charts.class_axis(3).ticks == [0, 1, 2]
  assert charts.class_axis(2).ticks == [0, 1]


@pytest.mark.parametrize(('items', 'labels'), [
    (1, ['0']), (12, list(map(str, range(12)))), (13, ['0', '2', '4', '6', '8', '10', '12']), (600, [
        str(n) for n in range(0, 600, 50)])])
def test_step_axis(items, labels):
  assert re.findall(r'>(\d+)<', charts.step_axis(items, 'step')) == labels


def test_folder_that_cannot_be_written(tmp_path):
  (tmp_path / 'taken').write_text('')
  for folder in (tmp_path / 'taken', tmp_path / 'taken/inside'):
    with pytest.raises(ValueError, match=r'output folder .*taken.* cannot be written.*--output'):
      provenance.prepare(folder)
  provenance.prepare(tmp_path / 'a/b')
  assert list((tmp_path / 'a/b').iterdir()) == []
