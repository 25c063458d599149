"""Memory and least time of training steps on TPUs: docs/results/scale.md.

    python bench/scale.py [--out bench/scale.jsonl] [--only rt1]     # needs the extra tpu-compile
    python bench/scale.py --table-only                               # the rows of --out as Markdown

Compiles each row in a process of its own, some minutes each on two CPU cores, and appends it to --out; rows that are
there already are not compiled again.
"""
import json
import pathlib
import resource
import subprocess
import sys
import time
from typing import Any

import tyro

from rtjax import train
from rtjax.training import compile_only

Row = dict[str, Any]

# Flags of fine-tuning: adapters, everything, action heads alone.
STAGE_2 = '--batch-size 8 --data episodes --text.data pairs --text.batch-size 8'
FINE_TUNING = (f'{STAGE_2} --model.lora.rank 16 --init.trainable lora', STAGE_2,
               '--batch-size 8 --data episodes --model.action-head classifier --init.trainable heads')
PUBLIC = 'rt2_paligemma', 'rt2_t5gemma2', 'rt2_pali_mt5'

# Preset, flags, devices. The first ones are the defaults.
ROWS = (
    ('rt1', '', 'v5e:2x4'),
    ('rt1_finetune', '--batch-size 128', 'v5e:2x2'),  # 32 a chip; there is no smaller topology
    ('rt1_multiview', '', 'v5e:4x4'),
    ('rt1_x', '', 'v5p:2x4x4'),
    ('rt2', '', 'v5e:4x4'),
    ('rt2_5b', '--mesh.data 1 --mesh.fsdp -1', 'v5e:8x8'),
    *((preset, '', 'cpu:1') for preset in ('bridge_sample', 'my_robot', 'reach', 'rt1_language_table', 'rt1_libero',
                                           'rt1_metaworld', 'rt1_tabletop', 'rt2_tabletop')),
    ('rt1', '--model.dtype float32', 'v5e:2x4'),
    ('rt1', '--batch-size 1024', 'v5e:4x8'),
    ('rt1', '--batch-size 4096', 'v5e:8x16'),
    ('rt1', '--batch-size 8192', 'v5p:4x4x8'),
    ('rt2', '--mesh.data 1 --mesh.fsdp -1', 'v5e:4x4'),
    ('rt2', '--mesh.data 1 --mesh.fsdp 8 --mesh.tensor 2', 'v5e:4x4'),
    ('rt2', '--mesh.data 4 --mesh.fsdp 4 --mesh.tensor 4', 'v5e:8x8'),
    ('rt2', '--batch-size 4096 --text.batch-size 4096 --mesh.data 1 --mesh.fsdp -1', 'v5e:16x16'),
    ('rt2_5b', '--mesh.data 1 --mesh.fsdp 16 --mesh.tensor 4', 'v5e:8x8'),
    ('rt2_5b', '--mesh.data 8 --mesh.fsdp 32', 'v5e:16x16'),
    ('rt2_5b', '--mesh.data 1 --mesh.fsdp -1', 'v5p:2x2x4'),
    *((preset, flags, 'v5p:1x1x1') for flags in FINE_TUNING for preset in PUBLIC),
    # The folder paligemma2 holds the config.json of google/paligemma2-3b-pt-224.
    *(('rt2_paligemma', f'{flags} --init.backbone paligemma2', 'v5p:1x1x1') for flags in FINE_TUNING),
)
# RT-2 with texts beside the robot episodes, its largest step.
CO_TRAINING = '--data episodes --text.data pairs'


def measure(preset: str, flags: str, target: str) -> Row:
  """Compile one row in this process."""
  start = time.process_time()
  words = f'{CO_TRAINING if preset.startswith("rt2") and "--data" not in flags else ""} {flags}'.split()
  report = compile_only.analyse(train.parse([preset, *words]), target)
  cost, bounds = report.cost, report.bounds
  return {
      'preset': preset, 'flags': flags, 'target': target, 'batch_size': report.config.batch_size,
      'texts': report.config.text.batch_size if report.config.text_data else 0,
      'parts': report.config.grad_accum_steps, 'dtype': report.config.model.dtype, 'mesh': list(report.mesh.values()),
      'memory_gb': {kind: round(size / 1e9, 3) for kind, size in report.memory.items()},
      'total_gb': round(report.total / 1e9, 2), 'limit_gb': round(report.limit / 1e9, 2), 'fits': report.fits,
      **({'tflop': round(cost.flops / 1e12, 3), 'hbm_gb': round(cost.hbm_bytes / 1e9, 2), 'messages': cost.messages}
         if cost else {}),
      'bounds_ms': {kind: round(1e3 * seconds, 2) for kind, seconds in bounds.items()},
      'buffers': [(b.count, b.array.text, b.source) for b in report.buffers[:5]],
      'compile_cpu_s': round(time.process_time() - start),
      'host_gb': round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 1)}


def table(rows: list[Row]) -> str:
  lines = ['| preset | batch | devices | mesh | parameters, optimizer | temporary | in all, GB | fits | compute | '
           'memory | messages | step at least | windows/s at most |', f'|{"---|" * 13}']
  for r in rows:
    memory, bounds = r['memory_gb'], r['bounds_ms']
    times = [f'{bounds[kind]:.0f} ms' if bounds else '' for kind in ('compute', 'memory', 'interconnect', 'step')]
    rate = f'{r["batch_size"] / bounds["step"] * 1e3:,.0f}' if bounds else ''
    limit = f'{r["total_gb"]:.1f} of {r["limit_gb"]:.1f}' if bounds or not r['fits'] else f'{r["total_gb"]:.2f}'
    batch = ' + '.join(str(size) for size in (r['batch_size'], r['texts']) if size)
    lines.append(f'| `{r["preset"]}`, {r["dtype"]} | {batch} | '
                 f'{r["target"]} | {" x ".join(map(str, r["mesh"]))} | '
                 f'{memory["parameters"] + memory["optimizer"]:.2f} | {memory["temporary"]:.2f} | {limit} | '
                 f'{"yes" if r["fits"] else "no"} | {" | ".join(times)} | {rate} |')
  return '\n'.join(lines)


def in_process(preset: str, flags: str, target: str) -> Row | None:
  """Compile a row in its own process; None if it fails."""
  ended = subprocess.run([sys.executable, __file__, '--row', json.dumps([preset, flags, target])], capture_output=True,
                         text=True, check=False)
  if ended.returncode:
    print(f'{preset} {flags} {target}: {ended.stderr[-500:]}', file=sys.stderr, flush=True)
    return None
  print(ended.stdout, end='', flush=True)
  row: Row = json.loads(ended.stdout.splitlines()[-1])
  return row


def main(out: pathlib.Path = pathlib.Path('bench/scale.jsonl'), only: str = '', table_only: bool = False,
         row: str = '') -> None:
  if row:
    print(json.dumps(measure(*json.loads(row))))
    return
  rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
  if table_only:
    print(table(rows))
    return
  done = {(r['preset'], r['flags'], r['target']) for r in rows}
  for preset, flags, target in ROWS:
    if (preset, flags, target) not in done and only in ('', preset) and (found := in_process(preset, flags, target)):
      with out.open('a') as file:
        file.write(json.dumps(found) + '\n')


if __name__ == '__main__':
  tyro.cli(main)
