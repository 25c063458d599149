"""Train a tiny RT-2 of a family on one and on eight simulated devices; print losses and shapes.

Arguments: a family of public_backbones.py, and what trains.
"""
import dataclasses
import json
import os
import pathlib
import sys

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import jax
from jax.sharding import AxisType, Mesh

from helpers import public_backbones, tiny_rt2
from rtjax import configs, models
from rtjax.models.layers.lora import LoraConfig
from rtjax.models.parameters import named_leaves
from rtjax.training import loop, sharding
from rtjax.training import optimizer as optimizers
from rtjax.training.config import TrainConfig, VisionLanguageInit
from rtjax.training.optimizer import OptimizerConfig
from rtjax.training.state import split


def run_config(family: str, trainable: str) -> TrainConfig:
  """The preset's way to act; windows of robots beside texts."""
  preset = configs.get(f'rt2_{family}')
  model = dataclasses.replace(
      preset.model, backbone=public_backbones.CONFIGS[family], action_spec=tiny_rt2.SPEC, prompt_length=6,
      answer_length=5, action_ids=tuple(range(20, 28)), dtype='float32',
      lora=LoraConfig(rank=2 if trainable == 'lora' else 0))
  return dataclasses.replace(
      preset, steps=4, batch_size=8, model=model, init=VisionLanguageInit(trainable=trainable), data=('robots',),
      optimizer=OptimizerConfig(kind='adafactor', learning_rate=1e-2, warmup_steps=0))


def curve(config: TrainConfig, mesh: Mesh) -> dict:
  """Return losses and norms of gradients of three steps, and shapes on a device."""
  optimizer = optimizers.build(config.optimizer, config.steps)
  graphdef, target = loop.target_state(config, models.abstract(config.model), optimizer, mesh)
  _, *trees = split(models.build(config.model, seed=0), config.is_trainable)
  layout = jax.tree.map(lambda leaf: leaf.sharding, target)
  state = jax.jit(loop._creator(config, optimizer), out_shardings=layout)(
      *[sharding.place(tree, mesh) for tree in trees])
  step, _ = loop.training_step(config, graphdef, optimizer, target, mesh)
  losses = []
  for number in range(3):
    windows = tiny_rt2.robot_batch(config.model, 8, number)
    batch = dataclasses.replace(windows, text=tiny_rt2.text_batch(config.model, 8, number))
    state, outputs = step(state, sharding.place_batch(batch, mesh), None)
    losses.append([float(outputs['loss']), float(outputs['grad_norm'])])
  shapes = {name: [list(leaf.shape), list(leaf.addressable_shards[0].data.shape)]
            for tree in (state.params, state.constants) for name, leaf in named_leaves(tree).items()}
  return {'losses': losses, 'shapes': shapes}


if __name__ == '__main__':
  config = run_config(*sys.argv[1:])
  one = jax.make_mesh((1, 1, 1), sharding.AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:1])
  print(json.dumps({'single': curve(config, one), 'split': curve(config, sharding.make_mesh((2, 2, 2)))}))
