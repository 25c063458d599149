"""HTML page of closed-loop reports."""
import re

import numpy as np
from helpers.closed_loop_reports import RECORDS, policy, record, report
from helpers.html_page import ParsedPage

from rtjax.evaluation.closed_loop.page import choose, page
from rtjax.runtime.html.frames import jpeg


def test_page(tmp_path):
  filmstrip = jpeg(np.zeros((4, 8, 3), np.uint8))
  for r in RECORDS:
    (tmp_path / f'{r["split"]}-{r["skill"]}-{r["seed"]}.jpg').write_bytes(filmstrip)
  text = page(report(policy('<mine>', step=100)), tmp_path, 4)
  parsed = ParsedPage(text)
  shown = parsed.text.replace('\N{NO-BREAK SPACE}', ' ')
  assert '50.0 %success rate over all episodes' in shown and '<mine>, step 100' in shown
  assert 'http' not in text and 'script' not in parsed.tags and '@import' not in text and 'url(' not in text
  assert text.count('class="episode"') == 4 == len(parsed.sources)
  assert shown.count('<pick> & "place"') == 4
  assert 'failed: wrong object, held other object (blue cube)' in shown
  for r in RECORDS[:3]:
    assert (str(r['seed']) if r['success'] else f'({r["seed"]})') in shown
  assert '"episodes_per_split": 3' in shown and 'determine the start of an episode' in shown
  # The gap of the unseen splits: 2/2 seen in 'pick', 1/3 unseen.
  assert '+66.7' in shown


def test_videos(tmp_path):
  for r in RECORDS:
    for suffix, content in (('jpg', b'filmstrip'), ('webp', b'video')):
      (tmp_path / f'{r["split"]}-{r["skill"]}-{r["seed"]}.{suffix}').write_bytes(content)
  (tmp_path / 'seen-pick-0.webp').unlink()  # as for an episode that ran without --videos
  text = page(report(policy()), tmp_path, 6, 2)
  assert text.count('src="data:image/jpeg') == 6 and text.count('src="data:image/webp') == 2
  with_video = [block for block in text.split('<section')[1:] if 'image/webp' in block]
  assert ['failed: ' in block for block in with_video] == [False, True] and 'seed 0' not in with_video[0]
  assert 'image/webp' not in page(report(policy()), tmp_path, 6)


def test_page_without_success_and_filmstrips(tmp_path):
  text = page(report(policy(records=[record(latency_ms=[])])), tmp_path, 8)
  assert 'class="episode"' not in text and 'Length of successful' not in text
  assert ParsedPage(text).text.count('0.0') > 0


def test_curve_over_checkpoints(tmp_path):
  policies = [policy('late', step=200, demonstrations=500), policy('early', RECORDS[3:], step=100, demonstrations=500)]
  text = page(report(*policies), tmp_path, 0)
  assert 'Success over training steps' in text and re.findall(r'>(100|200)</span>', text) == ['100', '200']
  # At half and at all of the width, 2/5 and 4/8 of the height.
  assert 'points="50,60 100,50"' in text
  sizes = [policy(f'{n}', step=100, demonstrations=n) for n in (50, 500)]
  assert 'Success over training demonstrations' in page(report(*sizes), tmp_path, 0)
  assert 'Success over' not in page(report(policies[0], policy('expert')), tmp_path, 0)


def test_chosen_episodes_take_turns():
  chosen = choose(RECORDS, 4)
  assert [r['success'] for r in chosen] == [True, True, False, False]
  assert {r['failure'] for r in chosen[2:]} == {'timeout', 'wrong object'}
  assert {(r['split'], r['skill']) for r in chosen[:2]} == {('seen', 'pick'), ('unseen_words', 'open')}
  assert len(choose(RECORDS, 100)) == len(RECORDS) and choose(RECORDS, 0) == []
  assert [r['success'] for r in choose(RECORDS[:3], 2)] == [True, False]
