"""Writer of models as published on Hugging Face; the reverse of huggingface.py."""
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from rtjax.models import parameters
from rtjax.models.backbones import t5
from rtjax.models.backbones.siglip import SigLIP, SigLIPConfig
from rtjax.models.backbones.t5 import T5, T5Config
from rtjax.models.backbones.vit import ViT, ViTConfig
from rtjax.pretrained import huggingface, huggingface_layout
from rtjax.pretrained.huggingface import Json, Names, Shapes
from rtjax.pretrained.huggingface_files import CONFIG, INDEX, SAFETENSORS

_ACTIVATIONS = {'gelu': 'gelu', 'gelu_tanh': 'gelu_pytorch_tanh'}
_OF_THE_RUN = ('dtype', 'remat', 'dropout', 'interpolation')
"""Fields of a configuration that are no part of the network as published."""


def save_huggingface(model: ViT | SigLIP | T5, folder: str | os.PathLike, *, shard_bytes: int = 5 * 10 ** 9) -> None:
  """Write a model for transformers and `load_huggingface`.

  Tensors have the type of the parameters. A ViT with a classifier is a ViTForImageClassification, an mT5 is written as
  the T5 that its network is, and copies of the embedding table are left out. Tokenizer and image processor are not part
  of a model: copy their files.

  Args:
    model: such as `load_huggingface` returns, or the part of an RT-2 that is one, `rt2.backbone.text`.
    folder: new, or without config.json and weights.
    shard_bytes: size from which the tensors go to several files, of at most this size each.

  Raises:
    ValueError: the folder has a model already, or files of Hugging Face cannot express this one.
  """
  folder = pathlib.Path(folder)
  if taken := [path.name for path in (folder / CONFIG, *folder.glob('model*.safetensors*')) if path.exists()]:
    raise ValueError(f'{folder} holds a model already ({taken[0]}): give another folder, or remove it.')
  config, names = describe(model.config)
  variables = parameters.named(model)
  shapes = {name: tuple(value.shape) for name, value in variables.items()}
  parameters.check({place: shapes.get(place, ()) for places in names.values() for place in places}, shapes,
                   f'by its config.json, the variables of this {type(model).__name__}')
  types = {str(value.dtype) for value in variables.values()}
  folder.mkdir(parents=True, exist_ok=True)
  _write_tensors(folder, names, variables, shard_bytes)
  _write_json(folder / CONFIG, dict(config) | ({'dtype': types.pop()} if len(types) == 1 else {}))


def describe(config: Any) -> tuple[Json, Names]:
  """Return config.json of a configuration, and the names of its tensors.

  Raises:
    ValueError: config.json cannot express it.
  """
  if type(config) not in _CONFIGS:
    raise ValueError(f'a {type(config).__name__} cannot be written, expected one of '
                     f'{[known.__name__ for known in _CONFIGS]}.')
  written, told_by = _CONFIGS[type(config)](config)
  understood, names, _ = huggingface.understand(written, told_by, 'this model')
  other = [field.name for field in dataclasses.fields(config) if field.name not in _OF_THE_RUN
           and getattr(config, field.name) != getattr(understood, field.name)]
  if other:
    raise ValueError(f'config.json of Hugging Face cannot express {other} of {config}.')
  return written, names


def _vit(config: ViTConfig) -> tuple[Json, Shapes]:
  labels = {'id2label': {str(i): f'LABEL_{i}' for i in range(config.classes)},
            'label2id': {f'LABEL_{i}': i for i in range(config.classes)}} if config.classes else {}
  prefix = 'vit.' if config.classes else ''
  told_by: dict[str, tuple[int, ...]] = {f'{prefix}embeddings.cls_token': (1, 1, config.width)}
  told_by |= {'classifier.weight': (config.classes, config.width)} if config.classes else {}
  told_by |= {f'{prefix}pooler.dense.bias': (config.width,)} if config.pooler else {}
  architecture = 'ViTForImageClassification' if config.classes else 'ViTModel'
  return {'model_type': 'vit', 'architectures': [architecture], **_vision(config), 'qkv_bias': True,
          'pooler_act': 'tanh', 'pooler_output_size': config.width,
          'hidden_dropout_prob': config.dropout, 'attention_probs_dropout_prob': 0.0, **labels}, told_by


def _siglip(config: SigLIPConfig) -> tuple[Json, Shapes]:
  told_by = {'vision_model.head.probe': (1, 1, config.width)} if config.pooler else {}
  return {'model_type': 'siglip_vision_model', 'architectures': ['SiglipVisionModel'], **_vision(config),
          'vision_use_head': config.pooler, 'attention_dropout': 0.0}, told_by


def _vision(config: ViTConfig) -> dict[str, Any]:
  height, width = config.image_size
  return {'image_size': height if height == width else [height, width], 'patch_size': config.patch, 'num_channels': 3,
          'hidden_size': config.width, 'num_hidden_layers': config.layers, 'num_attention_heads': config.heads,
          'intermediate_size': config.mlp_width, 'layer_norm_eps': config.epsilon,
          'hidden_act': _ACTIVATIONS.get(config.activation, config.activation)}


def _t5(config: T5Config) -> tuple[Json, Shapes]:
  return {'model_type': 't5', 'architectures': ['T5ForConditionalGeneration'], 'vocab_size': config.vocab_size,
          'd_model': config.width, 'd_kv': config.head_size, 'd_ff': config.mlp_width,
          'num_layers': config.encoder_layers, 'num_decoder_layers': config.decoder_layers, 'num_heads': config.heads,
          'relative_attention_num_buckets': config.buckets, 'relative_attention_max_distance': config.max_distance,
          'feed_forward_proj': {'gelu_tanh': 'gated-gelu', 'silu': 'gated-silu'}[config.activation],
          'dropout_rate': config.dropout, 'layer_norm_epsilon': t5.EPSILON, 'tie_word_embeddings': config.tied,
          'is_encoder_decoder': True, 'pad_token_id': t5.PAD, 'decoder_start_token_id': t5.PAD,
          'eos_token_id': t5.END}, {}


# config.json of a configuration, and those shapes of its tensors that tell which optional parts exist.
_CONFIGS: dict[type, Callable[[Any], tuple[Json, Shapes]]] = {ViTConfig: _vit, SigLIPConfig: _siglip, T5Config: _t5}


def _write_tensors(folder: pathlib.Path, names: Names, variables: Mapping[str, jax.Array], most: int) -> None:
  """Write one file, or shards of at most `most` bytes."""
  sizes = {tensor: sum(variables[place].nbytes for place in places) for tensor, places in sorted(names.items())}
  shards = list(_shards(sizes, most))
  files = [SAFETENSORS] if len(shards) == 1 else [
      f'model-{i:05}-of-{len(shards):05}.safetensors' for i in range(1, len(shards) + 1)]
  for file, shard in zip(files, shards, strict=True):
    _write_file(folder / file, {tensor: _tensor(tensor, names[tensor], variables) for tensor in shard})
  if len(shards) > 1:
    weight_map = {tensor: file for file, shard in zip(files, shards, strict=True) for tensor in shard}
    _write_json(folder / INDEX, {'metadata': {'total_size': sum(sizes.values())}, 'weight_map': weight_map})


def _shards(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
  """Yield the tensors of each file, in order."""
  shard: list[str] = []
  for tensor, size in sizes.items():
    if shard and sum(sizes[name] for name in shard) + size > most:
      yield shard
      shard = []
    shard.append(tensor)
  yield shard


def _tensor(tensor: str, places: tuple[str, ...], variables: Mapping[str, jax.Array]) -> np.ndarray:
  parts = [huggingface_layout.write(np.asarray(variables[place]), tensor, place) for place in places]
  return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts))


def _write_file(path: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
  from safetensors.numpy import save_file
  save_file(tensors, path, {'format': 'pt'})  # transformers refuses files without this entry


def _write_json(path: pathlib.Path, value: Json) -> None:
  path.write_text(json.dumps(value, indent=2) + '\n')
