"""Files of a closed-loop report: JSON, Markdown and HTML."""
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from rtjax.evaluation.closed_loop import external_log, summary
from rtjax.evaluation.closed_loop.page import page
from rtjax.evaluation.closed_loop.protocol import FORMAT
from rtjax.evaluation.closed_loop.tables import seeds, tables
from rtjax.runtime import limits
from rtjax.runtime.html.formatting import count, percent


def write(folder: pathlib.Path, report: dict[str, Any], show: int, videos: int = 0) -> None:
  """Write report.json, report.md and the self-contained report.html.

  Args:
    folder: of the evaluation; filmstrips and videos are read from its `films`.
    show: number of episodes on the page.
    videos: number of these with a video.
  """
  (folder / 'report.json').write_text(json.dumps(report, indent=1) + '\n')
  (folder / 'report.md').write_text(markdown(report), encoding='utf-8')
  (folder / 'report.html').write_text(page(report, folder / 'films', show, videos), encoding='utf-8')


def markdown(report: dict[str, Any]) -> str:
  success = report['policies'][0]['summary']['success']
  head = (f'# Closed-loop success in {report["protocol"]["env"]}: {report["policies"][0]["name"]}\n\n'
          f'{percent(success["rate"])} of {count(success["episodes"], "episode")}, {report["created"]}, '
          f'{report["machine"]}.\n')
  protocol = f'## Protocol\n\n```json\n{json.dumps(report["protocol"], indent=1)}\n```\n'
  protocol += '\nSeeds by split, failures in brackets:\n\n' + ''.join(
      f'- {split}: {seeds(report, split)}\n' for split in report['protocol']['splits'])
  return '\n'.join([head, *(table.markdown() for table in tables(report)), protocol])


def find(name: str) -> pathlib.Path | None:
  """Return the path of an existing report.json, from itself or its folder."""
  path = pathlib.Path(name)
  return next((p for p in (path, path / 'report.json') if p.suffix == '.json' and p.is_file()), None)


def read_first_policy(path: pathlib.Path, protocol: Mapping[str, Any]) -> dict[str, Any]:
  """Read the first policy of an earlier report.

  Args:
    protocol: of this evaluation.

  Raises:
    ValueError: the file is no such report, has an entry of another type, is of another environment, or repeats an
      episode.
  """
  report = limits.json_object(limits.read_json(path), f'--compare {path}')
  if report.get('format') != FORMAT or not report.get('policies'):
    raise ValueError(f'--compare {path} is no closed-loop report of this version of rtjax.')
  expected = json.loads(json.dumps(protocol))
  stored = limits.json_object(report.get('protocol'), f'the protocol of {path}')
  for key in ('env', 'settings', 'control_hz', 'max_steps'):
    if stored.get(key) != expected[key]:
      raise ValueError(f'--compare {path} was made with another protocol: its {key} is {stored.get(key)}, here it is '
                       f'{expected[key]}. Evaluate both with the same settings.')
  return _checked_policy(path, report['policies'], expected['max_steps'])


def _checked_policy(path: pathlib.Path, policies: Any, max_steps: int) -> dict[str, Any]:
  """Return the first policy, checked, with a summary of its episodes."""
  policy = limits.json_object(policies[0] if isinstance(policies, list) else policies, f'the first policy of {path}')
  episodes = policy.get('episodes')
  if not isinstance(episodes, list) or not episodes:
    raise ValueError(f'the first policy of {path} has no list of episodes.')
  records = [external_log.complete(f'{path}, episode {number}', record, max_steps)
             for number, record in enumerate(episodes)]
  summary.require_single_episodes(records, f'--compare {path}')
  identity = external_log.checked_identity(f'the identity in {path}', policy.get('identity', {}))
  return policy | {'identity': identity, 'summary': summary.summarize(records), 'episodes': records}
