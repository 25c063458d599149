"""Put a trained policy into the package, with a model card.

  python bench/package_weights.py checkpoints/demo rt1_tabletop --trained '`make demo`, 17 minutes on two CPU cores'

Weights in half precision (`rtjax.pretrained.safetensors.pack`) are evaluated in the tabletop beside the checkpoint, on
the same episodes, and refused if they are significantly worse. Writes NAME.safetensors and NAME.md in rtjax/packaged,
over those of an earlier policy of that name, and tests/packaged/NAME.npz: the first step of an episode, and seeds of
episodes that both solved. The report is kept in reports/, where the same command resumes an interrupted evaluation.
"""
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile
import textwrap
from typing import Any

import numpy as np
import tyro

import rtjax
from rtjax import envs, packaged
from rtjax.models import parameters
from rtjax.policies.policy import Policy
from rtjax.pretrained import safetensors
from rtjax.runtime.html.formatting import percent_interval

ROOT = pathlib.Path(__file__).parents[1]
TESTS = ROOT / 'tests/packaged'
SPLITS = ('seen', 'unseen_instructions', 'unseen_phrasings', 'unseen_objects', 'unseen_backgrounds')
SOLVED = 3  # episodes of the test in closed loop
WORSE = 0.05  # p of McNemar's test

Json = dict[str, Any]


def main(checkpoint: tyro.conf.Positional[pathlib.Path], name: tyro.conf.Positional[str], trained: str,
         skills: tuple[str, ...] = ('pick',), splits: tuple[str, ...] = SPLITS, episodes: int = 100, compare: str = '',
         image_text: tuple[str, ...] = ()) -> None:
  """Write, evaluate and describe the weights.

  Args:
    checkpoint: run folder, or folder of one step.
    name: of the packaged policy.
    trained: command, time and hardware of the training, for the card.
    skills: skills of the tabletop.
    splits: splits of the tabletop, 'seen' first.
    episodes: number per split.
    compare: report of the checkpoint on the same episodes; empty = evaluate it.
    image_text: image-text data, whose held-out questions an RT-2 answers as well.
  """
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder, f'{name}.safetensors')
    safetensors.pack(checkpoint, file)
    out = ROOT / 'reports' / f'{name}-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}'
    command = ['--env', 'tabletop', '--split', *splits, '--skills', *skills, '--episodes', episodes, '--compare',
               compare or checkpoint, *(['--image-text', *image_text] if image_text else [])]
    subprocess.run([sys.executable, ROOT / 'eval.py', file, *map(str, command), '--output', out], check=True)
    report = json.loads((out / 'report.json').read_text())
    test, = report['comparisons']
    if test['difference'] < 0 and test['p'] < WORSE:
      raise SystemExit(f'the weights in half precision solve fewer episodes: {test}. They were not packaged.')
    policy = rtjax.load_policy(file)
    (packaged.FOLDER / f'{name}.md').write_text(card(name, trained, policy, file.stat().st_size, report))
    write_example(TESTS / f'{name}.npz', policy, solved(report))
    (packaged.FOLDER / file.name).write_bytes(file.read_bytes())


def solved(report: Json) -> list[Json]:
  """Return the first episodes that the weights and the checkpoint solved."""
  both = [{(e['split'], e['skill'], e['seed']) for e in policy['episodes'] if e['success']}
          for policy in report['policies']]
  return [{'split': split, 'skill': skill, 'seed': seed} for split, skill, seed in sorted(both[0] & both[1])][:SOLVED]


def write_example(file: pathlib.Path, policy: Policy, episodes: list[Json]) -> None:
  """Write a first step, inputs and action, and the episodes."""
  first = episodes[0]
  env: Any = envs.make('tabletop', split=first['split'], image_size=policy.metadata.input_size(), wrist=False)
  observation = env.reset(seed=first['seed'], options={'skill': first['skill']})[0]
  env.close()
  inputs = {'image': observation['image']}
  if policy.config.proprioception_size:
    inputs['proprioception'] = observation['proprioception']
  policy.reset(observation['instruction'])
  plan = policy.step(**inputs).plan
  file.parent.mkdir(exist_ok=True)
  np.savez_compressed(file, **inputs, plan=plan, instruction=np.array(observation['instruction']),
                      episodes=np.array(json.dumps(episodes)))


def card(name: str, trained: str, policy: Policy, size: int, report: Json) -> str:
  protocol, ours, test = report['protocol'], report['policies'][0], report['comparisons'][0]
  metadata, training = policy.metadata, policy.metadata.training
  data = [f'{entry["episodes"]:,} episodes ({entry["steps"]:,} steps) of `{entry["name"]}`'
          for entry in metadata.statistics.values()]
  amount = parameters.count(list(parameters.stored(policy.model).values()))
  skills, failures = sorted({e['skill'] for e in ours['episodes']}), ours['summary']['failures']
  height, width = protocol['settings']['image_size']
  parts = [
      f'# {name}',
      _filled(f'Network `{type(policy.model).__name__}` of {amount / 1e6:.1f} M parameters for the tabletop, '
              f'{size / 1e6:.1f} MB in half precision. Skills: {", ".join(skills)}. It reads images of '
              f'{height}x{width} and instructions encoded by `{metadata.embedding_id}`.'),
      f"```python\nimport rtjax\n\npolicy = rtjax.load_policy('{name}')\npolicy.reset('pick up the red cube')\n```",
      '## Training',
      _filled(f'Trained by {trained}. Data: {", ".join(data)}, recorded by scripted experts in the split `seen`. '
              f'{metadata.step:,} steps of {training["batch_size"]} windows, seed {training["seed"]}; the weights are '
              'their moving average.'),
      '## Success',
      _filled(f'{protocol["episodes_per_split"]} episodes of each split, seeds from {protocol["first_seed"]}, renderer '
              f"`{protocol['settings']['renderer']}`. Intervals are Wilson's, 95 %; they cover the episodes and not "
              f'another training. rtjax {report["rtjax"]}, {report["machine"]}.'),
      '| split | success |\n|---|---|\n' + _rows(ours['summary']['by_split']),
      _filled(f'Failures: {", ".join(f"{reason} {count}" for reason, count in failures.items())}. Of '
              f'{test["episodes"]} episodes, the checkpoint in float32 solved {test["only_second"]} that '
              f'these weights did not, and they {test["only_first"]} that it did not (p {test["p"]:.2f}).'
              f'{_answers(ours)}'),
      '## Limits',
      _filled('Other skills, simulators, cameras and robots were not trained. Licence: Apache 2.0, as the package.')]
  return '\n\n'.join(parts) + '\n'


def _filled(text: str) -> str:
  return textwrap.fill(text, 120, break_long_words=False)


def _rows(splits: Json) -> str:
  return '\n'.join(f'| {split.replace("_", " ")} | {s["successes"]} of {s["episodes"]} '
                   f'({percent_interval(s["interval"])}) |' for split, s in splits.items())


def _answers(policy: Json) -> str:
  after = policy.get('answers', {}).get('after', {})
  return ''.join(f' {task}: {s["correct"]} of {s["count"]} held-out questions right '
                 f'({percent_interval(s["interval"])}).' for task, s in after.items())


if __name__ == '__main__':
  tyro.cli(main)
