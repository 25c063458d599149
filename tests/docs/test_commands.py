"""Commands of the documentation: train.py and eval.py parse them."""
import re
import shlex
from collections.abc import Iterator

import pytest
import tyro
from helpers.paths import ROOT

from rtjax import configs, train
from rtjax import eval as evaluation

PAGES = [ROOT / 'README.md', ROOT / 'data/README.md', *sorted(ROOT.glob('docs/**/*.md')),
         *sorted(ROOT.glob('rtjax/configs/*.py'))]


def commands(script: str) -> Iterator[str]:
  """Yield the commands of the pages, without comments; '...' stands for a name."""
  subcommand = f'rtjax {script.removesuffix(".py")} '
  for page in PAGES:
    text = page.read_text().replace(subcommand, f'python {script} ').replace('\\\\\n', ' ').replace('\\\n', ' ')
    spans = [' '.join(span.split()) for span in re.findall(rf'`(python {script} [^`]+)`', text)]
    lines = re.findall(rf'^\s*(python {script} .*?)(?:\s+#.*|\s{{4,}}.*)?$', text, re.MULTILINE)
    yield from (command.replace('...', 'X') for command in [*spans, *lines] if '`' not in command)


@pytest.mark.parametrize('command', sorted(set(commands('train.py'))))
def test_train_parses(command: str) -> None:
  preset, *flags = shlex.split(command)[2:]
  is_help = preset == '--list' or not {'--help', '--help-verbose'}.isdisjoint(flags)
  if is_help or preset in ('PRESET', 'X', 'mean_color'):  # the last one is tested with docs/add_a_model.md
    return
  assert preset in configs.names()
  train.parse([preset, *flags])


@pytest.mark.parametrize('command', sorted(set(commands('eval.py'))))
def test_eval_parses(command: str) -> None:
  config = tyro.cli(evaluation.Config, args=shlex.split(command)[2:])
  if config.env or config.dataset:
    config.check()
