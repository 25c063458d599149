"""Damaged files at every reader: nothing but clear errors (`make test-full`).

Each target damages a valid file at random: bytes changed, cut out, repeated or inserted. A reader returns something, or
raises an error that commands print as one line. Another error, or a crash of the process, is a failure.
"""
import contextlib
import json
import pathlib
import warnings

import numpy as np
import pytest
from helpers import image_text_folders, robot_logs, tiny_rlds, tiny_tokenizers
from helpers.tiny_rt1 import TINY

save_file = pytest.importorskip('safetensors.numpy').save_file
hypothesis = pytest.importorskip('hypothesis', reason='hypothesis is not installed: pip install rtjax[dev]')
from etils import epath  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from rtjax import actions, checkpoints, configs, models  # noqa: E402
from rtjax.actions import ActionSpec  # noqa: E402
from rtjax.data import images as stored_images  # noqa: E402
from rtjax.data.convert import logs  # noqa: E402
from rtjax.data.convert.episode import read_episode  # noqa: E402
from rtjax.data.convert.images import inspect  # noqa: E402
from rtjax.data.convert.options import Options  # noqa: E402
from rtjax.data.image_text.sources import open_source  # noqa: E402
from rtjax.data.rlds.episodes import Dataset  # noqa: E402
from rtjax.data.tf import tf, tfds  # noqa: E402
from rtjax.evaluation.closed_loop import external_log, report  # noqa: E402
from rtjax.language.instructions import Table  # noqa: E402
from rtjax.language.tokenizer import Tokenizer  # noqa: E402
from rtjax.pretrained import huggingface, rt1_x, safetensors, tf_rt1  # noqa: E402
from rtjax.runtime import checksums, limits, serialization  # noqa: E402
from rtjax.runtime.cli import UserError  # noqa: E402
from rtjax.training import log as training_log  # noqa: E402
from rtjax.training.config import check_same_run  # noqa: E402

CLEAR = (ValueError, OSError, UserError)
"""Errors that `runtime.cli.run` prints as one line."""

JSON_TOKENS = [b'null', b'[]', b'{}', b'-1', b'1e999', b'100000000000000000000', b'"x"', b'true', b'../x', b'NaN']
EDITS = st.lists(st.tuples(
    st.sampled_from(['set', 'cut', 'insert', 'repeat', 'end']), st.floats(0, 1), st.integers(1, 64),
    st.binary(min_size=1, max_size=8) | st.sampled_from(JSON_TOKENS)), min_size=1, max_size=4)


def damage(content: bytes, edits) -> bytes:
  """Apply edits, whose places are shares of the length."""
  for kind, share, length, new in edits:
    place = int(share * len(content))
    kept, rest = content[:place], content[place:]
    content = {'set': kept + new + rest[len(new):], 'cut': kept + rest[length:], 'insert': kept + new + rest,
               'repeat': kept + rest[:length] * 2 + rest[length:], 'end': kept}[kind]
  return content


def fuzz(folder: pathlib.Path, name: str, read, examples: int = 1000) -> None:
  """Damage the file `name` of a folder again and again, and read it."""
  file = folder / name
  good = file.read_bytes()
  read()  # the file itself is valid

  @settings(max_examples=examples, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(HealthCheck))
  @given(EDITS)
  def target(edits):
    file.write_bytes(damage(good, edits))
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      try:
        read()
      except CLEAR as error:
        assert str(error)

  try:
    target()
  finally:
    file.write_bytes(good)


pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def rlds(tmp_path_factory):
  return pathlib.Path(tiny_rlds.write_lengths(tmp_path_factory.mktemp('rlds'), [3, 2]))


@pytest.mark.parametrize('pattern', ['dataset_info.json', 'features.json', '*.tfrecord*'])
def test_rlds(rlds, pattern):
  fuzz(rlds, next(rlds.glob(pattern)).name,
       lambda: list(Dataset(str(rlds), 'train', actions.ARM_7D).read_all()))


def test_image_text_tfds(tmp_path):
  folder = pathlib.Path(image_text_folders.write_tfds(
      tmp_path, 'coco_captions', image_text_folders.COCO, [image_text_folders.coco(1, 'a cat')], metadata={'grid': 3}))
  fuzz(folder, 'metadata.json', lambda: list(open_source(str(folder), 'train').read_all()))


@pytest.mark.parametrize('file', ['train.jsonl', 'train.tar'])
def test_image_text_files(tmp_path, file):
  if file == 'train.jsonl':
    image_text_folders.write_jsonl(tmp_path, image_text_folders.LINES)
  else:
    image_text_folders.write_tar(tmp_path / file, {'a.png': image_text_folders.encoded(1), 'a.txt': b'a cube', 'b.json':
                                                   b'{"caption": "x"}', 'b.jpg': image_text_folders.encoded(2)})
  fuzz(tmp_path, file, lambda: list(open_source(str(tmp_path), 'train').read_all()))


@pytest.mark.parametrize('form', ['png', 'jpeg', 'bmp'])
def test_images(tmp_path, form):
  """Both decoders: Pillow in the converter, TensorFlow in training."""
  (tmp_path / 'a').write_bytes(image_text_folders.encoded(1, (16, 20), form))
  decode = stored_images.decoder(tfds.features.Image(), (8, 10))

  def read():
    encoded = (tmp_path / 'a').read_bytes()
    with contextlib.suppress(tf.errors.OpError):  # callers name the episode
      decode(encoded)
    if form != 'bmp':
      inspect(encoded)
  fuzz(tmp_path, 'a', read)


def converted(path: pathlib.Path, *keys: str):
  options = Options(path, **dict(zip(keys[::2], keys[1::2], strict=True)))
  for log in logs.find_logs(path, options.action):
    episode = read_episode(log, options, options.spec())
    log.names()
    for image in episode.images:
      inspect(image)


def test_npz_logs(tmp_path):
  robot_logs.write_npz(tmp_path, {'a': robot_logs.episode(0)})
  fuzz(tmp_path, 'a.npz', lambda: converted(tmp_path))


def test_hdf5_logs(tmp_path):
  robot_logs.write_hdf5(tmp_path, {'a': robot_logs.episode(0)})
  fuzz(tmp_path, 'a.hdf5', lambda: converted(tmp_path, 'image', 'observations/images/front', 'instruction', '@task'))


def test_hdf5_groups(tmp_path):
  robot_logs.write_hdf5_groups(tmp_path / 'a.hdf5', {'demo_0': robot_logs.episode(0)})
  fuzz(tmp_path, 'a.hdf5', lambda: converted(tmp_path / 'a.hdf5', 'image', 'obs/front', 'action', 'actions',
                                             'instruction', 'language'))


def test_folder_logs(tmp_path):
  robot_logs.write_folders(tmp_path, {'a': robot_logs.episode(0)})
  fuzz(tmp_path / 'a', 'steps.csv', lambda: converted(tmp_path))


def test_external_logs(tmp_path):
  header = {'env': 'x', 'policy': 'mine', 'control_hz': 3, 'max_steps': 80, 'threshold': 0.5, 'settings': {'a': [1]}}
  record = {'split': 'seen', 'skill': 'pick', 'seed': 0, 'success': True, 'steps': 31, 'latency_ms': [1.5], 'jerk': 2.0,
            'info': {'touched': ['a'], 'displaced': {'a': 0.1}, 'task': 'pick: a', 'moved': 0.3}}
  (tmp_path / 'log.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in (
      header, record, record | {'seed': 1, 'success': False})))

  def read():
    report.write(tmp_path, external_log.build([str(tmp_path / 'log.jsonl')]), 2)
    assert '<script' not in (tmp_path / 'report.html').read_text()
  fuzz(tmp_path, 'log.jsonl', read)


def test_earlier_reports(tmp_path):
  (tmp_path / 'log.jsonl').write_text('{"env": "x", "policy": "a", "control_hz": 3, "max_steps": 80}\n' + json.dumps(
      {'split': 'seen', 'skill': 'pick', 'seed': 0, 'success': True, 'steps': 31}) + '\n')
  built = external_log.build([str(tmp_path / 'log.jsonl')])
  report.write(tmp_path, built, 0)
  fuzz(tmp_path, 'report.json', lambda: report.read_first_policy(tmp_path / 'report.json', built['protocol']))


def test_metadata_of_a_checkpoint(tmp_path):
  (tmp_path / 'metadata').mkdir()
  (tmp_path / 'metadata/metadata').write_text(json.dumps({
      'format': 2, 'step': 0, 'config': models.config_to_json(TINY), 'statistics': {'a': {'image_size': [8, 8]}},
      'embedding_id': 'x', 'train': {'pipeline': {'image_size': [8, 8], 'views': ['a']}},
      'tokenizer': Tokenizer().to_json()}))

  def read():
    data = checkpoints.read_step_json(tmp_path)
    checkpoints.PolicyMetadata.from_json(tmp_path, data)
    models.config_from_json(data.get('config'))
    if data.get('tokenizer') is not None:
      Tokenizer.from_json(data['tokenizer'])
  fuzz(tmp_path / 'metadata', 'metadata', read)


def test_configurations(tmp_path):
  """Networks of damaged configurations are built, as far as they can be; one example takes up to a second."""
  file = tmp_path / 'config.json'
  file.write_text(json.dumps(models.config_to_json(TINY)))
  fuzz(tmp_path, 'config.json', lambda: models.abstract(models.config_from_json(json.loads(file.read_bytes()))), 300)


def test_action_specs(tmp_path):
  file = tmp_path / 'spec.json'
  file.write_text(json.dumps(serialization.to_json(actions.ARM_7D)))
  fuzz(tmp_path, 'spec.json', lambda: Options(tmp_path, action_spec=str(file)))
  assert Options(tmp_path, action_spec=str(file)).spec() == actions.ARM_7D
  assert isinstance(actions.ARM_7D, ActionSpec)


def test_tables_of_instructions(tmp_path):
  Table('x', ('a', 'b'), np.ones((2, 4), np.float32)).save(tmp_path / 'table.npz')
  fuzz(tmp_path, 'table.npz', lambda: Table.load(tmp_path / 'table.npz'))


def test_tokenizers(tmp_path):
  (tmp_path / 'spiece.model').write_bytes(Tokenizer().model[:3000] + Tokenizer().model[-3000:])
  try:
    Tokenizer.load(tmp_path)
  except ValueError:
    (tmp_path / 'spiece.model').write_bytes(Tokenizer().model)
  fuzz(tmp_path, 'spiece.model', lambda: Tokenizer.load(tmp_path))


def test_tokenizers_in_json(tmp_path):
  pytest.importorskip('tokenizers', reason="needs the extra 'language'")
  (tmp_path / 'tokenizer.json').write_bytes(tiny_tokenizers.gemma_json())
  fuzz(tmp_path, 'tokenizer.json', lambda: Tokenizer.load(tmp_path).encode(['pick up 7'], 100))


@pytest.fixture
def no_networks(monkeypatch):
  """Leave out the building of networks, which takes a second."""
  monkeypatch.setattr(models, 'from_values', lambda config, values: config)
  monkeypatch.setattr(checkpoints, 'attach_tokenizer', lambda *_: None)


def test_safetensors(tmp_path, no_networks):
  safetensors.write(tmp_path / 'a.safetensors', {'a': np.ones((4, 3), np.int8), 'a.scale': np.ones(3, np.float32)}, {
      'config': models.config_to_json(TINY), 'embedding_id': 'x', 'image_size': [8, 8]})
  fuzz(tmp_path, 'a.safetensors', lambda: safetensors.load(tmp_path / 'a.safetensors'))


def test_hugging_face(tmp_path):
  save_file({'a': np.ones(3, np.float32)}, tmp_path / 'shard.safetensors')
  (tmp_path / 'config.json').write_text(json.dumps({
      'model_type': 'vit', 'num_hidden_layers': 1, 'hidden_size': 8, 'num_attention_heads': 2, 'intermediate_size': 8,
      'image_size': 16, 'patch_size': 8, 'hidden_act': 'gelu', 'qkv_bias': True}))
  (tmp_path / 'model.safetensors.index.json').write_text('{"weight_map": {"a": "shard.safetensors"}}')

  def read():
    try:
      huggingface.read(tmp_path)
    except ValueError as error:  # tensors are missing: the configuration itself was understood
      if 'the tensors of' not in str(error):
        raise
  for name in ('model.safetensors.index.json', 'config.json'):
    fuzz(tmp_path, name, read, 300 if name == 'config.json' else 1000)


STACK = {'vocab_size': 40, 'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'num_key_value_heads': 1,
         'head_dim': 4, 'intermediate_size': 8, 'query_pre_attn_scalar': 4, 'sliding_window': 4, 'layer_types': [
             'sliding_attention']}
VISION = {'model_type': 'siglip_vision_model', 'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2,
          'intermediate_size': 8, 'image_size': 16, 'patch_size': 8, 'vision_use_head': False}
ROPE = {'full_attention': {'rope_type': 'linear', 'factor': 8.0, 'rope_theta': 1e6}}
GEMMAS = {
    'gemma': {'model_type': 'paligemma', 'image_token_index': 39, 'text_config': {'model_type': 'gemma'} | STACK,
              'vision_config': VISION},
    'gemma2': {'model_type': 'paligemma', 'image_token_index': 39, 'vision_config': VISION, 'text_config': {
        'model_type': 'gemma2', 'attn_logit_softcapping': 2.0, 'final_logit_softcapping': None} | STACK},
    't5gemma2': {'model_type': 't5gemma2', 'decoder': STACK | {'rope_parameters': ROPE}, 'encoder': {
        'text_config': STACK | {'rope_parameters': ROPE}, 'vision_config': VISION, 'mm_tokens_per_image': 4,
        'boi_token_index': 31, 'eoi_token_index': 32, 'image_token_index': 33}}}


@pytest.mark.parametrize('family', GEMMAS)
def test_configurations_of_gemma(tmp_path, family):
  """config.json beside an image processor; names and shapes are those of the undamaged network."""
  from rtjax.pretrained import huggingface_layout
  (tmp_path / 'config.json').write_text(json.dumps(GEMMAS[family]))
  (tmp_path / 'preprocessor_config.json').write_text(json.dumps({'image_mean': [0.5] * 3, 'resample': 2}))
  config, names, _ = huggingface.understand(GEMMAS[family], {}, 'x')
  variables = models.parameters.shapes(models.abstract(config))
  save_file({tensor: np.zeros(huggingface_layout.shape_in_file(tensor, places, variables), np.float32)
             for tensor, places in names.items()}, tmp_path / 'model.safetensors')
  for file in ('config.json', 'preprocessor_config.json'):
    fuzz(tmp_path, file, lambda: huggingface.open_folder(tmp_path), 200)


@pytest.mark.parametrize(('version', 'pattern'), [
    ('v2.1', 'info.json'), ('v2.1', 'episodes.jsonl'), ('v2.1', 'tasks.jsonl'), ('v3.0', 'info.json'),
    ('v3.0', 'tasks.parquet'), ('v3.0', 'episodes/*/*.parquet')])
def test_descriptions_of_lerobot(tmp_path, version, pattern):
  pytest.importorskip('pyarrow', reason="needs the extra 'lerobot'")
  from helpers import tiny_lerobot

  from rtjax.data.lerobot import metadata
  folder = tiny_lerobot.write(tmp_path / 'a', version, 'image', [4, 3])
  (file,) = (folder / 'meta').glob(pattern)

  def read():
    found = metadata.load(str(folder))
    for name in found.cameras.values():
      found.image_size(name)
  fuzz(file.parent, file.name, read)


def test_msgpack_checkpoints(tmp_path):
  from flax import serialization as flax_serialization
  (tmp_path / 'checkpoint').write_bytes(flax_serialization.msgpack_serialize(
      {'params': {'a': {'kernel': np.ones((3, 4), np.float32)}}, 'batch_stats': {'b': np.ones(3, np.float32)}}))

  def read():
    try:
      rt1_x.load(tmp_path)
    except ValueError as error:
      if 'does not look like RT-1-X' not in str(error):
        raise
  fuzz(tmp_path, 'checkpoint', read)


@pytest.mark.parametrize('pattern', ['*.index', '*.data-*'])
def test_tensorflow_checkpoints(tmp_path, pattern):
  tf.train.Checkpoint(a=tf.Variable(np.ones((3, 4), np.float32))).write(str(tmp_path / 'ckpt'))

  def read():
    try:
      tf_rt1.load(tmp_path)
    except ValueError as error:
      if 'but not of RT-1' not in str(error):
        raise
  fuzz(tmp_path, next(tmp_path.glob(pattern)).name, read)


def test_runs_of_other_versions(tmp_path):
  """config.json of a run that is resumed."""
  config = configs.get('my_robot')
  file = tmp_path / 'config.json'
  file.write_text(json.dumps(serialization.to_json(config)))
  fuzz(tmp_path, 'config.json', lambda: check_same_run(limits.json_object(limits.read_json(file), file), config, file))


def test_rows_of_metrics(tmp_path):
  file = tmp_path / 'metrics.jsonl'
  file.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n')
  fuzz(tmp_path, 'metrics.jsonl', lambda: training_log._rows(file))


def test_checksums(tmp_path):
  (tmp_path / 'a').write_text('x')
  checksums.write(epath.Path(tmp_path))
  fuzz(tmp_path, checksums.NAME, lambda: checksums.problems(epath.Path(tmp_path)))


def test_messages_of_robots(tmp_path):
  pytest.importorskip('msgpack', reason="needs the extra 'serve'")
  from rtjax.serving import protocol
  message = protocol.pack({'image': np.zeros((4, 6, 3), np.uint8), 'instruction': 'pick', 'reset': True,
                           'proprioception': np.zeros(7, np.float32)})
  (tmp_path / 'message').write_bytes(message)
  fuzz(tmp_path, 'message', lambda: protocol.read_request((tmp_path / 'message').read_bytes(), (4, 6)))


def test_messages_of_servers(tmp_path):
  """The client raises its own errors alone, and returns finite actions."""
  pytest.importorskip('msgpack', reason="needs the extra 'serve'")
  from rtjax_client import codec, policy
  (tmp_path / 'message').write_bytes(codec.pack({
      'actions': np.ones((1, 7), np.float32), 'action': {'gripper': [1.0]}, 'tokens': [0], 'confidence': [1.0],
      'begins': False, 'server_timing': {'infer_ms': 1.0}}))

  def read():
    with contextlib.suppress(policy.ServerError):
      action = policy._read_action(policy._unpack((tmp_path / 'message').read_bytes()), 1.0)
      assert all(np.isfinite(part).all() for part in (action.plan, *action.action.values()))
  fuzz(tmp_path, 'message', read)
