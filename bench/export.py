"""Exports a policy to every format and compares each with the model on recorded frames.

  python bench/export.py CHECKPOINT --dataset FOLDER [--split val] [--frames 200] [--formats onnx stablehlo]

Prints one line of JSON per export; `latency_s` is the median step at batch 1, `model_s` that of the policy in rtjax.
"""
import importlib
import json
import pathlib
import tempfile

import tyro
from machine import describe, matmul_gflops

from rtjax.export import check, run


def main(checkpoint: tyro.conf.Positional[str], dataset: str, split: str = 'val', frames: int = 200,
         formats: tuple[str, ...] = ('onnx', 'savedmodel', 'stablehlo', 'safetensors')) -> None:
  policy, step = run.load(checkpoint)
  shown = check.dataset_frames(policy, dataset, split, step.picture, frames)
  for name in formats:
    for int8 in (False, True):
      with tempfile.TemporaryDirectory() as folder:
        written = pathlib.Path(folder)
        module = importlib.import_module(f'rtjax.export.{name}')
        module.save(step, written, int8)
        # The model again each time, so that both meet the machine in the same mood.
        found = check.compare(check.reference(policy, shown), module.load(written, step), step, shown)
        print(json.dumps({
            'format': name, 'int8': int8, 'MB': round(check.size(written) / 1e6, 1), 'frames': found.frames,
            'difference': float(f'{found.difference:.2g}'), 'largest_logit': round(found.largest, 1),
            'tokens': f'{found.equal}/{found.tokens}',
            'agrees': found.agrees, 'latency_s': round(found.seconds, 4),
            'model_s': round(found.model_seconds, 4), 'matmul_gflops': round(matmul_gflops())} | describe()),
              flush=True)


if __name__ == '__main__':
  tyro.cli(main)
