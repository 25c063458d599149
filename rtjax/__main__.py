"""The command `rtjax`, also python -m rtjax: rtjax train rt1 --data FOLDER"""
import importlib
import sys

from rtjax.runtime import cli
from rtjax.runtime.suggest import did_you_mean

COMMANDS = {
    'train': ('rtjax.train', 'train a policy on recorded episodes'),
    'eval': ('rtjax.eval', 'evaluate a policy in a simulator or on recorded episodes'),
    'serve': ('rtjax.serve', 'serve a policy to robots'),
    'export': ('rtjax.export.__main__', 'write a policy as ONNX, SavedModel, StableHLO or safetensors'),
    'convert': ('rtjax.data.convert.__main__', 'convert logs of a robot to a dataset'),
    'look': ('rtjax.data.look.__main__', 'write a page that shows a dataset'),
    'statistics': ('rtjax.data.episodes.__main__', 'compute the statistics of datasets before training'),
    'check-image-text': ('rtjax.data.image_text.check', 'check a source of images and texts'),
    'instruction-table': ('rtjax.data.instruction_table', 'write the instructions of a dataset with their vectors')}
"""Module with a function `main`, and a description."""


def usage() -> str:
  width = max(map(len, COMMANDS))
  return '\n'.join(['usage: rtjax COMMAND ...; rtjax COMMAND --help shows its flags', '',
                    *(f'  {name:<{width}}  {text}' for name, (_, text) in COMMANDS.items())])


def main() -> None:
  cli.run(_dispatch)


def _dispatch() -> None:
  name, *flags = sys.argv[1:] or ['--help']
  if name in ('-h', '--help'):
    print(usage())
  elif name == '--version':
    print(importlib.import_module('rtjax').__version__)
  elif name not in COMMANDS:
    raise ValueError(f'unknown command {name!r}, expected one of {", ".join(COMMANDS)}.{did_you_mean(name, COMMANDS)}')
  else:
    sys.argv = [f'rtjax {name}', *flags]
    importlib.import_module(COMMANDS[name][0]).main()


if __name__ == '__main__':
  main()
