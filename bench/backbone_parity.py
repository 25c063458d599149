"""Parity of vision-language backbones with transformers, as the tables of docs/results/released_weights.md.

    python bench/backbone_parity.py

Runs the tests that compare outputs with the golden files and names with the manifests of complete checkpoints, which
lie beside a development checkout, and prints Markdown. Takes minutes; ends with the tests' status if one fails.
"""
import os
import pathlib
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_TESTS = ['tests/models/backbones', 'tests/pretrained/test_huggingface.py']


def main() -> None:
  os.chdir(_ROOT)
  if status := pytest.main([*_TESTS, '-q', '-k', 'golden or greedy or full_size']):
    sys.exit(status)
  found = sys.modules['helpers.golden_huggingface']
  print('| golden file | largest difference of each output | equal ids |\n|---|---|---|')
  for case in sorted({case for case, _ in found.DIFFERENCES}):
    outputs = [f'{output} {value:.1e}' for (of, output), value in found.DIFFERENCES.items() if of == case]
    ids = [f'{output} {count}' for (of, output), count in found.IDS.items() if of == case]
    print(f'| {case} | {", ".join(outputs)} | {", ".join(ids)} |')
  print('\n| checkpoint | tensors, each matched by name and shape | variables |\n|---|---|---|')
  for name, (tensors, variables) in sorted(found.MATCHED.items()):
    print(f'| {name} | {tensors} | {variables} |')


if __name__ == '__main__':
  main()
