"""Python of the documentation, run as printed in a folder with the files that it names; what is not run has a reason.

Names that a page takes for granted, such as `image` and `camera`, stand for generated inputs.
"""
import contextlib
import dataclasses
import json
import pathlib
import shutil
import types

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import image_text_folders, replays, rlds_layouts, rt2_training, saved_run
from helpers.fakes import CountingPolicies, serving
from helpers.paths import ROOT
from helpers.snippets import snippets

import rtjax
from rtjax import actions, envs, models
from rtjax.data.rlds import adapters
from rtjax.evaluation.closed_loop import external_log
from rtjax.language.instructions import HASHED_NGRAMS, Table, hashed_ngrams
from rtjax.language.tokenizer import Tokenizer
from rtjax.runtime import serialization

ELSEWHERE = {
    **{f'docs/add_a_model.md:{number}': 'tests/docs/test_add_a_model.py' for number in range(3)},
    'docs/add_an_environment.md:0': 'tests/envs/test_add_an_environment.py',
    'docs/guides/export.md:1': 'tests/docs/test_snippets.py', 'docs/guides/export.md:2': 'tests/docs/test_snippets.py'}
NOT_RUN = {
    'docs/architecture.md:1': 'signatures without bodies',
    'docs/guides/export.md:0': 'its time_step is that of a TF-Agents robot; tests/export runs the SavedModel',
    'docs/guides/export.md:3': 'needs OpenVINO; bench/runtimes.py does the same',
    'docs/guides/released_weights.md:3': 'needs published folders: see tests/pretrained/test_huggingface_save.py'}

FRAMES = 3


class Enough(Exception):
  """Ends a loop that a robot would never end."""


class Running:
  """True for a few steps."""

  def __init__(self):
    self._left = FRAMES

  def __bool__(self):
    self._left -= 1
    return self._left >= 0


@dataclasses.dataclass
class Camera:
  """A camera with a few frames."""
  image: np.ndarray
  left: int = FRAMES

  def __call__(self):
    if not self.left:
      raise Enough
    self.left -= 1
    return self.image


def step(number: int) -> dict[str, object]:
  """Return a step of data/reach's layout."""
  text = 'reach the red square'
  return {'observation/image': np.full((96, 96, 3), number, np.uint8), 'observation/state': np.zeros(7, np.float32),
          'action': np.full(7, number / 1000, np.float32), 'language_instruction': text,
          'language_embedding': hashed_ngrams(text), 'is_first': np.bool_(number == 0),
          'is_last': np.bool_(number == 6), 'is_terminal': np.bool_(number == 6)}


@pytest.fixture(scope='module')
def home(tmp_path_factory) -> pathlib.Path:
  """Folder with the runs and datasets that the pages name."""
  folder = tmp_path_factory.mktemp('home')
  tiny, pairs = replays.tiny_config(actions.ARM_7D), image_text_folders
  for name, config in {'demo': dataclasses.replace(tiny, proprioception_size=7), 'run': tiny}.items():
    saved_run.save(models.build(config, seed=0), folder / 'checkpoints' / name, HASHED_NGRAMS)
  shutil.copytree(folder / 'checkpoints/run', folder / 'trained_checkpoints/rt1main')
  texts = ('put carrot on plate',)
  Table(HASHED_NGRAMS, texts, np.stack([hashed_ngrams(text) for text in texts])).save(folder / 'table.npz')
  for name in ('reach', 'my_robot'):
    rlds_layouts.write(folder / 'data/built', name, 7, step, count=3)
  described = folder / 'data/built/my_robot/1.0.0'
  (described / 'metadata.json').write_text(json.dumps(adapters.standard_metadata(actions.ARM_7D, HASHED_NGRAMS)))
  (described / 'action_spec.json').write_text(json.dumps(serialization.to_json(actions.ARM_7D)))
  asked = [{'kind': 'vqa', 'question': 'how many?', 'answer': '3'}, {'kind': 'caption', 'question': '', 'answer': 'a'},
           {'kind': 'match', 'question': 'a can', 'answer': 'no'}]
  pairs.write_tfds(folder / 'data/built', 'tabletop_qa', pairs.TABLETOP, [
      {'image': pairs.pixels(1), 'pairs': asked}] * 3)
  pairs.write_jsonl(folder / 'photos', pairs.LINES)
  return folder


def run(name: str, home: pathlib.Path, names: dict[str, object] | None = None,
        replaced: dict[str, str] | None = None) -> dict[str, object]:
  """Run a snippet, with words of it replaced, and return its names."""
  text = dict(snippets())[name]
  for old, new in (replaced or {}).items():
    assert old in text
    text = text.replace(old, new)
  names = {'__name__': 'snippet'} | (names or {})
  with contextlib.chdir(home):
    exec(compile(text, name, 'exec'), names)
  return names


RUN: dict[str, object] = {}


def runs(*names: str):
  """Register a test as the one that runs these snippets."""
  RUN.update(dict.fromkeys(names))
  return lambda test: pytest.mark.parametrize('name', names)(test)


def images(*shape: int) -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


INPUTS = {'image': images(256, 320), 'images': images(1, 2, 256, 320), 'state': np.zeros(7, np.float32),
          'embedding': hashed_ngrams('go'), 'embeddings': hashed_ngrams('go')[None]}


def test_every_snippet_is_run_or_has_a_reason():
  known = [*RUN, *ELSEWHERE, *NOT_RUN]
  assert sorted(known) == sorted(name for name, _ in snippets())
  assert all((ROOT / test).is_file() for test in ELSEWHERE.values())


@runs('README.md:2', 'docs/guides/released_weights.md:0', 'docs/quick_start.md:2')
def test_policies_and_models(name, home):
  moved = []
  found = run(name, home, INPUTS | {
      'rtjax': rtjax, 'running': Running(), 'move': lambda *parts: moved.append([part.shape for part in parts])})
  assert found['logits'].shape == (1, 2, 7, 256)
  if name.startswith('README'):
    assert moved == [[(3,), (3,), (1,)]] * FRAMES


@runs('docs/quick_start.md:0')
def test_the_packaged_policy(name, home):
  assert {key: part.shape for key, part in run(name, home)['out'].action.items()} == {
      'translation': (3,), 'rotation': (3,), 'gripper': (1,)}


@runs('data/README.md:5', 'data/README.md:6', 'docs/guides/your_robot.md:5')
def test_datasets(name, home, capsys):
  found = run(name, home)
  if 'batch' in found:
    assert found['batch']['images'].shape == (8, 6, 96, 96, 3) and found['batch']['actions'].shape == (8, 6, 1, 7)
  elif 'report' in found:
    assert json.loads(capsys.readouterr().out)['data/built/my_robot/1.0.0']['episodes'] == 3
  else:
    assert found['step']['language_instruction'] == b'reach the red square'


@runs('docs/guides/your_robot.md:1', 'docs/guides/your_robot.md:2', 'docs/guides/your_robot.md:3')
def test_adapters(name, home, monkeypatch):
  monkeypatch.setattr(adapters, 'ADAPTERS', dict(adapters.ADAPTERS))
  found = run(name, home, {'Adapter': adapters.Adapter, 'flat_arm': adapters.flat_arm})
  if 'action' in found:
    steps = {'action': {'ee_delta': np.ones((2, 6), np.float32), 'closed': np.float32([0, 1])},
             'is_last': np.array([False, True])}
    assert adapters.get('my_robot').action(steps)['gripper'].ravel().tolist() == [1, 0]


@runs('clients/python/README.md:0', 'docs/guides/serving.md:2', 'docs/guides/serving.md:3',
      'docs/guides/evaluation.md:0')
def test_clients(name, home):
  openpi = name == 'docs/guides/serving.md:3'
  if openpi:
    pytest.importorskip('openpi_client', reason='openpi-client is not installed')
  moved, size = [], (4, 6)
  env = types.SimpleNamespace(reset=lambda seed: (images(*size), 'go'), step=lambda action: (images(*size), True))
  robot = types.SimpleNamespace(move=lambda *parts: moved.append(parts))
  with serving(CountingPolicies(1), size=size) as (_, port):
    names = {'image': images(*size), 'camera': types.SimpleNamespace(read=lambda: images(*size)), 'robot': robot,
             'env': env, 'running': Running()}
    port_of = {'RemotePolicy()': f'RemotePolicy(port={port})'} if 'evaluation' in name else {'8000': str(port)}
    found = run(name, home, names, port_of)
  if openpi:
    assert found['policy'].get_server_metadata()['name'] == 'a model'
  elif 'evaluation' in name:
    success = external_log.build([str(home / 'simpler.jsonl')])['policies'][0]['summary']['success']
    assert (success['successes'], success['episodes']) == (100, 100)
  else:
    assert len(moved) == FRAMES or found['out'].action['translation'].shape == (3,)


@runs('docs/guides/at_the_robot.md:0')
def test_a_loop_at_the_robot(name, home):
  sent = []
  with pytest.raises(Enough):
    run(name, home, {'camera': Camera(images(32, 40)), 'send': sent.append})
  assert [command.shape for command in sent] == [(7,)] * FRAMES


@runs('docs/quick_start.md:1', 'docs/guides/tabletop.md:0', 'docs/add_an_environment.md:1')
def test_environments(name, home, monkeypatch, capsys):
  pytest.importorskip('gymnasium', reason="needs the extra 'sim'")
  monkeypatch.setattr(envs, '_registered', dict(envs._registered))
  if name.startswith('docs/add'):
    names = run('docs/add_an_environment.md:0', home)
  else:
    pytest.importorskip('mujoco', reason="needs the extra 'sim'")
    names = {}
  found = run(name, home, names)
  assert found['observation']['image'].dtype == np.uint8
  if 'policy' in found:
    assert found['done'] and capsys.readouterr().out.split()[-1] in ('True', 'False')
  found['env'].close()


@runs('docs/guides/image_text.md:1')
def test_image_text(name, home):
  batch = run(name, home)['batch']
  assert batch['images'].shape == (32, 224, 224, 3) and batch['targets'].shape == (32, 32)


@runs('docs/guides/rt2.md:0')
def test_rt2(name, home):
  model = models.build(dataclasses.replace(rt2_training.MODEL, action_spec=actions.ARM_7D), seed=0)
  model.set_tokenizer(Tokenizer())
  saved_run.save(model, home / 'checkpoints/rt2_stage2', Tokenizer().id)
  found = run(name, home, {'image': images(16, 16), 'images': images(1, 16, 16)})
  assert found['policy'].step(images(16, 16)).action['translation'].shape == (3,)


@runs('docs/guides/released_weights.md:1', 'docs/guides/released_weights.md:2')
def test_vision_language_models(name, home):
  folder = home / ('t5-v1_1-xl' if name.endswith('2') else 't5-v1_1-large')
  rtjax.pretrained.save_huggingface(models.build(rt2_training.MODEL.backbone.text, seed=0), folder)
  found = run(name, home, {'rtjax': rtjax, 'ids': jnp.ones((1, 4), int), 'mask': jnp.ones((1, 4), bool)})
  assert found['vlm'].config.width == 16
