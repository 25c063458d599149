"""config.json of networks, as published on Hugging Face; huggingface.py reads it.

Entries that transformers computes, or takes as defaults without effect on the network, are left out.
"""
import dataclasses
from collections.abc import Callable
from typing import Any

from rtjax.models.backbones import t5
from rtjax.models.backbones.gemma import GemmaConfig
from rtjax.models.backbones.paligemma import PaliGemmaConfig
from rtjax.models.backbones.siglip import SigLIPConfig
from rtjax.models.backbones.t5 import T5Config
from rtjax.models.backbones.t5gemma2 import T5Gemma2Config
from rtjax.models.backbones.vit import ViTConfig
from rtjax.pretrained import huggingface
from rtjax.pretrained.huggingface import Json, Names, Shapes
from rtjax.runtime import serialization

_ACTIVATIONS = {'gelu': 'gelu', 'gelu_tanh': 'gelu_pytorch_tanh'}
_OF_THE_RUN = ('dtype', 'remat', 'dropout', 'interpolation')
"""Fields of a configuration that are no part of the network as published."""


def describe(config: Any) -> tuple[Json, Names]:
  """Return config.json of a configuration, and the names of its tensors.

  Raises:
    ValueError: config.json cannot express it.
  """
  if type(config) not in _FAMILIES:
    raise ValueError(f'a {type(config).__name__} cannot be written, expected one of '
                     f'{[known.__name__ for known in _FAMILIES]}. Give the backbone of an RT-2, or of PaLI its parts '
                     '`vision` and `text`.')
  written, told_by = _FAMILIES[type(config)](config)
  understood, names, _ = huggingface.understand(written, told_by, 'this model')
  if other := differences(config, understood):
    raise ValueError(f'config.json of Hugging Face cannot express {", ".join(other)} of this {type(config).__name__}.')
  return written, names


def differences(one: Any, other: Any) -> list[str]:
  """Return the fields that make another network, with both values."""
  left, right = (_fields(serialization.to_json(_explicit(config))) for config in (one, other))
  return [f'{name} {left.get(name)!r} (not {right.get(name)!r})' for name in left | right
          if left.get(name) != right.get(name)]


def _explicit(config: Any) -> Any:
  """Return the configuration with stacks of Gemma whose fields stand for themselves."""
  stacks = {field.name: value for field in dataclasses.fields(config)
            if isinstance(value := getattr(config, field.name), GemmaConfig)}
  return dataclasses.replace(config, **{name: dataclasses.replace(
      stack, query_scale=stack.query_scale or float(stack.head_size), local=stack.local or (False,) * stack.layers,
      local_span=stack.local_span if any(stack.local) else 1) for name, stack in stacks.items()})


def _fields(config: Any, place: str = '') -> dict[str, Any]:
  """Return the values of nested objects by place."""
  if not isinstance(config, dict):
    return {place: config}
  return {name: found for key, value in config.items() if key not in _OF_THE_RUN
          for name, found in _fields(value, f'{place}.{key}'.lstrip('.')).items()}


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
  return {'architectures': ['SiglipVisionModel'], **_tower(config)}, told_by


def _tower(config: SigLIPConfig) -> dict[str, Any]:
  return {'model_type': 'siglip_vision_model', **_vision(config), 'vision_use_head': config.pooler,
          'attention_dropout': 0.0}


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


def _paligemma(config: PaliGemmaConfig) -> tuple[Json, Shapes]:
  second = config.text.post_norms
  text = {'model_type': 'gemma2' if second else 'gemma', **_gemma(config.text), **_special(config),
          'rope_parameters': {'rope_type': 'default', 'rope_theta': config.text.rope_base}}
  text |= _gemma_2_and_3(config.text) | {'attn_logit_softcapping': config.text.attention_cap or None} if second else {
      'hidden_act': 'gelu_pytorch_tanh'}
  return {'model_type': 'paligemma', 'architectures': ['PaliGemmaForConditionalGeneration'],
          'image_token_index': config.image_id, 'hidden_size': config.width, 'projection_dim': config.width,
          'tie_word_embeddings': True, **_special(config), 'text_config': text,
          'vision_config': {**_tower(config.vision), 'projection_dim': config.width}}, {}


def _t5gemma2(config: T5Gemma2Config) -> tuple[Json, Shapes]:
  ids = {'eoi_token_index': config.end_of_image, 'image_token_index': config.image_id}
  encoder, decoder = ({
      'model_type': name, **_gemma(stack), **_gemma_2_and_3(stack), **_special(config), 'rope_parameters': {
          'full_attention': _rope(stack.rope_base, stack.rope_factor),
          'sliding_attention': _rope(stack.local_rope_base, 1)}}
      for name, stack in (('t5gemma2_text', config.encoder), ('t5gemma2_decoder', config.decoder)))
  return {'model_type': 't5gemma2', 'architectures': ['T5Gemma2ForConditionalGeneration'],
          'vocab_size': config.vocab_size, 'is_encoder_decoder': True, 'tie_word_embeddings': True, **ids,
          **_special(config), 'decoder': decoder, 'encoder': {
              'model_type': 't5gemma2_encoder', 'text_config': encoder, 'vision_config': _tower(config.vision),
              'mm_tokens_per_image': config.pooled_tokens, 'boi_token_index': config.image_begin[-1], **ids}}, {}


def _gemma(config: GemmaConfig) -> dict[str, Any]:
  """Return the entries common to all Gemmas."""
  return {'vocab_size': config.vocab_size, 'hidden_size': config.width, 'num_hidden_layers': config.layers,
          'num_attention_heads': config.heads, 'num_key_value_heads': config.kv_heads, 'head_dim': config.head_size,
          'intermediate_size': config.mlp_width, 'rms_norm_eps': config.epsilon, 'attention_bias': False,
          'attention_dropout': 0.0, 'tie_word_embeddings': True}


def _gemma_2_and_3(config: GemmaConfig) -> dict[str, Any]:
  kinds = {True: 'sliding_attention', False: 'full_attention'}
  scale = config.query_scale or config.head_size
  return {'hidden_activation': 'gelu_pytorch_tanh', 'sliding_window': config.local_span,
          'layer_types': [kinds[local] for local in config.local or (False,) * config.layers],
          'query_pre_attn_scalar': int(scale) if scale == int(scale) else scale,  # transformers wants integers
          'attn_logit_softcapping': None, 'final_logit_softcapping': config.logit_cap or None}


def _rope(base: float, factor: float) -> dict[str, Any]:
  kind = {'rope_type': 'default'} if factor == 1 else {'rope_type': 'linear', 'factor': factor}
  return kind | {'rope_theta': base}


def _special(config: PaliGemmaConfig | T5Gemma2Config) -> dict[str, int]:
  return {'pad_token_id': config.pad_id, 'eos_token_id': config.end_id, 'bos_token_id': config.begin_id}


# config.json of a configuration, and those shapes of its tensors that tell which optional parts exist.
_FAMILIES: dict[type, Callable[[Any], tuple[Json, Shapes]]] = {
    ViTConfig: _vit, SigLIPConfig: _siglip, T5Config: _t5, PaliGemmaConfig: _paligemma, T5Gemma2Config: _t5gemma2}
