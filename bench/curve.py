"""Draw the training curve of a run from its metrics.jsonl.

  python bench/curve.py checkpoints/bridge_sample docs/images/bridge_sample.svg
"""
import json
import pathlib

import matplotlib
import tyro

matplotlib.use('svg')
import matplotlib.pyplot as plt


def main(run: tyro.conf.Positional[pathlib.Path], out: tyro.conf.Positional[pathlib.Path]) -> None:
  rows = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  training = [row for row in rows if 'loss' in row]
  validation = [row for row in rows if 'validation/loss' in row]
  figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout='constrained')
  for axes, name, factor, label in [(left, 'accuracy', 100, 'tokens right, %'), (right, 'loss', 1, 'cross-entropy')]:
    axes.plot([r['step'] for r in training], [factor * r[name] for r in training], color='#0b5fa5', label='training')
    axes.plot([r['step'] for r in validation], [factor * r[f'validation/{name}'] for r in validation], 'o',
              color='#c8501e', label='inference mode')
    axes.set(xlabel='step', ylabel=label, ylim=(0, None))
    axes.spines[['top', 'right']].set_visible(False)
  left.axhline(90, color='0.7', linewidth=0.8, linestyle='--')
  right.legend(frameon=False)
  out.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(out, metadata={'Date': None})


if __name__ == '__main__':
  tyro.cli(main)
