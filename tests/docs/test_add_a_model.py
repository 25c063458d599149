"""The example of docs/add_a_model.md, as written there: tested, trained, saved and loaded."""
import dataclasses
import importlib
import pathlib
import re
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from helpers import tiny_rlds
from helpers.paths import ROOT

import rtjax
from rtjax import configs, models
from rtjax.models import registry
from rtjax.training import loop
from rtjax.training.config import ValidationConfig

FILES = ('rtjax/models/mean_color.py', 'rtjax/configs/mean_color.py', 'tests/models/test_mean_color.py')


@pytest.fixture(scope='module')
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
  """Folder with the files of the page; its models and configs are importable as rtjax's own."""
  folder = tmp_path_factory.mktemp('page')
  blocks = re.findall(r'```python\n# (\S+)\n(.*?)```', (ROOT / 'docs/add_a_model.md').read_text(), re.DOTALL)
  assert [name for name, _ in blocks] == list(FILES)
  for name, text in blocks:
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text(text)
  modules = 'rtjax.models.mean_color', 'rtjax.configs.mean_color'
  with pytest.MonkeyPatch.context() as patch:
    for package in (models, configs):
      patch.setattr(package, '__path__', [*package.__path__, str(folder / package.__name__.replace('.', '/'))])
    importlib.import_module(modules[0])
    yield folder
  registry._models.pop('mean_color')
  for module in modules:
    sys.modules.pop(module, None)


def test_the_example_needs_the_contract_alone(written: pathlib.Path) -> None:
  imported = re.findall(r'^from (rtjax\S*) import', (written / FILES[0]).read_text(), re.MULTILINE)
  assert sorted(set(imported)) == ['rtjax', 'rtjax.actions', 'rtjax.models.base', 'rtjax.models.registry',
                                   'rtjax.observation']


def test_the_tests_of_the_page_pass(written: pathlib.Path) -> None:
  tests: dict[str, object] = {}
  exec(compile((written / FILES[2]).read_text(), FILES[2], 'exec'), tests)
  found = [test for name, test in tests.items() if name.startswith('test_') and callable(test)]
  assert len(found) == 3
  for test in found:
    test()


def test_the_preset_trains_and_its_checkpoint_loads(written: pathlib.Path, tmp_path: pathlib.Path) -> None:
  assert 'mean_color' in configs.names()
  data = tiny_rlds.write_lengths(tmp_path / 'data', [6, 5])
  outcome = loop.train(dataclasses.replace(
      configs.get('mean_color'), data=(data,), output=str(tmp_path / 'run'), steps=2, batch_size=4,
      validation=ValidationConfig(every=0)))
  assert outcome.finished
  assert np.isfinite(outcome.row['loss'])
  model, policy = rtjax.load_model(outcome.run), rtjax.load_policy(outcome.run)
  images, embedding = np.zeros((1, 1, 8, 10, 3), np.uint8), np.ones((1, 512), np.float32)
  logits = model(images, embedding)
  policy.reset(embedding=embedding[0])
  np.testing.assert_allclose(policy.step(images[0, 0]).logits, logits[0, 0], atol=1e-5)
