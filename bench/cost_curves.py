"""Cost of a training step over one setting at a time.

    python bench/cost_curves.py [--preset rt1_tabletop]                      # needs the extra tpu-compile
    python bench/cost_curves.py --draw-to docs/images/cost_curves.svg        # needs matplotlib

Compiles the preset for TPU v5e with each value of a setting, without a TPU: memory of a chip, FLOPs and the least time
of a step (docs/results/scale.md). Rows are appended to --out; those that are there are not compiled again.
"""
import json
import pathlib
from typing import Any

import tyro
from scale import Row, in_process

# Title -> flag, values; `{}` is the value. The batch is that of all chips.
AXES: dict[str, tuple[str, tuple[int, ...]]] = {
    'window, frames': ('--model.window {}', (1, 2, 4, 8)),
    'image side, pixels': ('--model.image-size {0} {0}', (48, 96, 144, 192)),
    'layers': ('--model.layers {}', (2, 4, 8, 16)),
    'windows a chip': ('', (8, 32, 128, 256)),
    'chips for 1024 windows': ('', (4, 8, 16, 32))}
TOPOLOGIES = {4: 'v5e:2x2', 8: 'v5e:2x4', 16: 'v5e:4x4', 32: 'v5e:4x8'}
CHIPS, WINDOWS = 4, 32  # of a point, windows of each chip


def settings(axis: str, value: int) -> tuple[str, str]:
  """Return flags and devices of a point."""
  chips, windows = (value, 1024 // value) if axis.startswith('chips') else (CHIPS, WINDOWS)
  windows = value if axis.startswith('windows') else windows
  return f'--batch-size {chips * windows} {AXES[axis][0].format(value)}'.strip(), TOPOLOGIES[chips]


def draw(rows: list[Row], out: pathlib.Path) -> None:
  """Draw one column per setting, one row of charts per cost."""
  import matplotlib
  matplotlib.use('svg')
  from matplotlib import pyplot as plt
  costs = {'memory of a chip, GB': lambda r: r['total_gb'], 'TFLOP of a chip': lambda r: r['tflop'],
           'least time, ms': lambda r: r['bounds_ms']['step']}
  figure, charts = plt.subplots(len(costs), len(AXES), figsize=(11, 5.4), sharex='col', layout='constrained')
  for line, (title, cost) in zip(charts, costs.items(), strict=True):
    for axes, axis in zip(line, AXES, strict=True):
      points = sorted((r['value'], cost(r)) for r in rows if r['axis'] == axis)
      axes.plot(*zip(*points, strict=True), 'o-', color='#0b5fa5', markersize=4)
      axes.set(ylim=(0, None))
      axes.spines[['top', 'right']].set_visible(False)
    line[0].set_ylabel(title)
  for axes, axis in zip(charts[-1], AXES, strict=True):
    axes.set(xlabel=axis, xlim=(0, None))
  figure.savefig(out, metadata={'Date': None})


def main(preset: str = 'rt1_tabletop', out: pathlib.Path = pathlib.Path('bench/cost_curves.jsonl'),
         draw_to: pathlib.Path | None = None) -> None:
  rows: list[dict[str, Any]] = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
  if draw_to:
    draw(rows, draw_to)
    return
  for axis, (_, values) in AXES.items():
    for value in values:
      if not any((r['axis'], r['value']) == (axis, value) for r in rows) and (
          row := in_process(preset, *settings(axis, value))):
        with out.open('a') as file:
          file.write(json.dumps({'axis': axis, 'value': value} | row) + '\n')


if __name__ == '__main__':
  tyro.cli(main)
