"""Size, latency and agreement of a policy's exports on recorded frames.

  python bench/export.py CHECKPOINT --dataset FOLDER [--split val] [--frames 200] [--formats onnx stablehlo]

Prints one line of JSON per export; `latency_s` is the median time of a step at batch 1, `model_s` that in rtjax.
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
  episodes = check.dataset_frames(policy, dataset, split, step.camera_size, frames)
  for name in formats:
    for int8 in (False, True):
      with tempfile.TemporaryDirectory() as folder:
        written = pathlib.Path(folder)
        module = importlib.import_module(f'rtjax.export.{name}')
        module.save(step, written, int8)
        # The model is timed again for each export, under the same load of the machine.
        result = check.compare(check.reference(policy, episodes), module.load(written, step), step, episodes)
        print(json.dumps({
            'format': name, 'int8': int8, 'MB': round(check.folder_size(written) / 1e6, 1), 'frames': result.frames,
            'difference': float(f'{result.difference:.2g}'), 'largest_logit': round(result.largest_logit, 1),
            'tokens': f'{result.equal}/{result.tokens}',
            'agrees': result.agrees, 'latency_s': round(result.seconds, 4),
            'model_s': round(result.model_seconds, 4), 'matmul_gflops': round(matmul_gflops())} | describe()),
              flush=True)


if __name__ == '__main__':
  tyro.cli(main)
