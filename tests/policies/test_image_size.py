"""One image size for a robot's process, a server with its client, an export and a simulator."""
import dataclasses
import json
import warnings

import jax
import numpy as np
import pytest
from helpers import saved_run
from helpers.fakes import serving
from helpers.tiny_rt1 import TINY
from rtjax_client import RemotePolicy
from rtjax_client.image import fit as client_fit

import rtjax
from rtjax import models
from rtjax.checkpoints import PolicyMetadata
from rtjax.export.run import export
from rtjax.models.backbones.film_efficientnet import B0_STAGES, EfficientNetConfig
from rtjax.policies import image_size
from rtjax.serving import server

ENCODER = 'hashed-ngrams/1'
SMALL = dataclasses.replace(TINY, window=2, layers=1, encoder=EfficientNetConfig(
    width=0.2, depth=0.2, stages=B0_STAGES[:1]))
RECORDED, OTHER = (24, 36), (48, 72)


def run(folder, pipeline=None, **sizes):
  """Save a checkpoint of a dataset whose images are 24x36, or of the datasets given."""
  statistics = {name: {'image_size': size} for name, size in (sizes or {'data': RECORDED}).items()}
  return saved_run.save(models.build(SMALL, seed=0), folder, ENCODER, statistics, pipeline)


def frames(count, size, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)


def tokens(policy, images):
  policy.reset('lift it')
  return [policy.step(image).tokens.tolist() for image in images]


def served(folder):
  """Run a server with the defaults of the command."""
  policies = rtjax.load_policy(folder, robots=1)
  size = image_size.input_size(policies.config, policies.metadata)
  server.warm_up(policies, size)
  return serving(policies, size=size)


def stablehlo_tokens(folder, images):
  encoded = rtjax.language.instructions.hashed_ngrams('lift it')
  cache, found = dict(np.load(folder / 'cache.npz')), []
  program = jax.export.deserialize(bytearray((folder / 'policy.stablehlo').read_bytes()))
  for image in images:
    out = program.call(cache, image[None], encoded[None])
    cache = out['cache']
    found.append(np.asarray(out['tokens'])[0].tolist())
  return found


@pytest.mark.parametrize(('pipeline', 'form'), [(None, 'safetensors'), ((16, 16), 'stablehlo')],
                         ids=['as recorded', 'resized by the pipeline'])
def test_served_exported_and_local_tokens_are_equal(tmp_path, pipeline, form):
  """All with the defaults of their commands."""
  folder, out = run(tmp_path / 'run', pipeline), tmp_path / 'export'
  images = frames(5, RECORDED)
  local = tokens(rtjax.load_policy(folder), images)
  with served(folder) as (_, port), RemotePolicy(port=port) as remote:
    assert remote.metadata['image_size'] == list(pipeline or RECORDED)
    assert tokens(remote, images) == local
  export(str(folder), form, out, frames=2)
  assert (tokens(rtjax.load_policy(out), images) if form == 'safetensors' else stablehlo_tokens(out, images)) == local
  described = json.loads((out / 'policy.json').read_text())
  assert described['camera_size'] == list(RECORDED) and described['image_size'] == list(pipeline or RECORDED)
  layout = described['observation']
  assert layout['images']['shape'] == ['B', *RECORDED, 3] and layout['images']['dtype'] == 'uint8'
  assert layout['embeddings']['shape'] == ['B', 512]


@pytest.mark.parametrize('size', [OTHER, (30, 30)], ids=['same aspect', 'other aspect'])
@pytest.mark.parametrize('pipeline', [None, (16, 16)], ids=['as recorded', 'resized by the pipeline'])
@pytest.mark.filterwarnings('ignore:images are 30x30')
def test_other_sizes_are_resized_alike(tmp_path, pipeline, size):
  folder = run(tmp_path, pipeline)
  images = frames(3, size)
  local = rtjax.load_policy(folder)
  with served(folder) as (_, port), RemotePolicy(port=port) as remote:
    assert tokens(remote, images) == tokens(local, images)
  tf = pytest.importorskip('tensorflow')
  target = pipeline or RECORDED
  fitted = tf.cast(tf.image.resize_with_pad(images, *target), tf.uint8).numpy()
  assert tokens(local, fitted) == tokens(local, images)


def test_an_aspect_that_the_data_did_not_have_warns():
  metadata = PolicyMetadata(image_size=(16, 16), statistics={'data': {'image_size': RECORDED}})
  recorded = metadata.recorded_sizes()
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    for size in (RECORDED, OTHER, (16, 16), (240, 361)):
      image_size.fit(frames(1, size), metadata)
      client_fit(frames(1, size)[0], (16, 16), recorded)
  for resize in (lambda image: image_size.fit(image[None], metadata)[0],
                 lambda image: client_fit(image, (16, 16), recorded)):
    with pytest.warns(UserWarning, match=r'30x30 .*another aspect than the training data \(24x36\).*black to 16x16'):
      assert resize(frames(1, (30, 30))[0]).shape == (16, 16, 3)


def test_sizes_of_several_datasets_and_of_released_weights(tmp_path):
  mixed = PolicyMetadata(image_size=(16, 16), statistics={n: {'image_size': s} for n, s in [('a', RECORDED), (
      'b', (30, 30)), ('c', None)]})
  assert mixed.recorded_sizes() == [RECORDED, (30, 30)] and mixed.input_size() == mixed.camera_size() == (16, 16)
  unknown = PolicyMetadata()
  assert image_size.input_size(SMALL, unknown) == image_size.camera_size(SMALL, unknown) == (256, 320)
  images = frames(1, (30, 30))
  assert image_size.fit(images, unknown) is images


def test_closed_loop_through_the_server_equals_that_in_process(tmp_path):
  """The same seeds give the same steps, reward and success."""
  pytest.importorskip('mujoco', reason="needs the extra 'sim'")
  from rtjax import envs
  folder = run(tmp_path)
  env = envs.make('tabletop', image_size=RECORDED)

  def episodes(policy):
    ends = []
    for seed in range(2):
      observation, info = env.reset(seed=seed, options={'skill': 'pick'})
      policy.reset(observation['instruction'])
      for _ in range(12):
        action = policy.step(observation['image']).plan[0]
        observation, *_, info = env.step(action)
      ends.append((info['success'], observation['proprioception'].tolist()))
    return ends

  with served(folder) as (_, port), RemotePolicy(port=port) as remote:
    assert episodes(remote) == episodes(rtjax.load_policy(folder))
