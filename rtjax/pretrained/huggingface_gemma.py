"""Names of PaliGemma and T5Gemma 2 as published on Hugging Face.

Configurations are published without what transformers takes as the default, so that each default stands here too.
"""
from collections.abc import Mapping
from typing import Any

from rtjax.models.backbones.gemma import GemmaConfig
from rtjax.models.backbones.paligemma import PaliGemmaConfig
from rtjax.models.backbones.siglip import SigLIPConfig
from rtjax.models.backbones.t5gemma2 import T5Gemma2Config

Json = Mapping[str, Any]
Names = dict[str, tuple[str, ...]]

_NEWLINES = 108  # id of two newlines in Gemma 3's vocabulary


def paligemma(config: Json, tensors: Mapping[str, Any], vision: SigLIPConfig, vision_names: Names
              ) -> tuple[PaliGemmaConfig, Names, dict[str, str]]:
  """Return configuration, names and ignored tensors of PaliGemma.

  Args:
    vision, vision_names: of the image encoder.
  """
  text, family = config['text_config'], config['text_config'].get('model_type', 'gemma')
  if family not in ('gemma', 'gemma2'):
    raise ValueError(f"config.json has text_config.model_type {family!r}, expected 'gemma' or 'gemma2'.")
  second = family == 'gemma2'
  layers = text.get('num_hidden_layers', 26 if second else 28)
  stack = _stack(text, layers, kv_heads=4 if second else 16, post_norms=second,
                 local=_local(text, layers, 2) if second else (), query_scale=256 if second else 0,
                 attention_cap=50.0 if second else 0.0, logit_cap=30.0 if second else 0.0)
  newer = any(name.startswith('model.language_model.') for name in tensors)
  language, outer = ('model.language_model.', 'model.') if newer else ('language_model.model.', '')
  names: Names = {f'{language}embed_tokens.weight': ('text/token_embedding/embedding',)}
  names |= _stack_names(language, 'text/decoder/', layers, second, False,
                        ('input_layernorm', 'post_attention_layernorm'))
  names |= {f'{outer}multi_modal_projector.linear.{a}': (f'projection/{b}',)
            for a, b in (('weight', 'kernel'), ('bias', 'bias'))}
  names |= _prefixed(f'{outer}vision_tower.', 'vision/', vision_names)
  image_id = config.get('image_token_index', 256000)
  return PaliGemmaConfig(vision, stack, image_id), names, {'lm_head.weight': 'a copy of the embedding table'}


def t5gemma2(config: Json, tensors: Mapping[str, Any], vision: SigLIPConfig, vision_names: Names
             ) -> tuple[T5Gemma2Config, Names, dict[str, str]]:
  """Return configuration, names and ignored tensors of T5Gemma 2.

  Args: as for `paligemma`.
  """
  encoder, texts = config['encoder'], {'encoder': config['encoder']['text_config'], 'decoder': config['decoder']}
  stacks = {}
  names: Names = {'model.encoder.embed_tokens.weight': ('token_embedding/embedding',),
                  'model.encoder.embed_tokens.eoi_embedding': ('end_of_image',),
                  'model.encoder.multi_modal_projector.mm_input_projection_weight': ('projection',),
                  'model.encoder.multi_modal_projector.mm_soft_emb_norm.weight': ('vision_norm/scale',)}
  for side, text in texts.items():
    layers = text.get('num_hidden_layers', 26)
    stacks[side] = _stack(text, layers, kv_heads=4, post_norms=True, head_norms=True, local=_local(text, layers, 6),
                          query_scale=256, **_rope(text))
    names |= _stack_names(f'model.{side}.', f'{side}/', layers, True, True,
                          ('pre_self_attn_layernorm', 'post_self_attn_layernorm'))
  names |= _prefixed('model.encoder.vision_tower.', 'vision/', vision_names)
  begin, end = encoder.get('boi_token_index', 255999), encoder.get('eoi_token_index', 256000)
  copy = 'a copy of the embeddings of the encoder'
  return T5Gemma2Config(
      vision, stacks['encoder'], stacks['decoder'], encoder.get('mm_tokens_per_image', 256), (_NEWLINES, begin),
      (end, _NEWLINES), end, encoder.get('image_token_index', 262144)), names, {
          'decoder.embed_tokens.weight': copy, 'decoder.embed_tokens.eoi_embedding': copy,
          'lm_head.out_proj.weight': copy}


def _stack(text: Json, layers: int, *, kv_heads: int, query_scale: int, attention_cap: float = 0.0,
           logit_cap: float = 0.0, **options: Any) -> GemmaConfig:
  activation = text.get('hidden_activation', 'gelu_pytorch_tanh')
  if activation not in ('gelu_pytorch_tanh', None) or text.get('attention_bias'):
    raise ValueError(f'config.json has hidden_activation {activation!r} and attention_bias '
                     f'{text.get("attention_bias")!r}, expected gelu_pytorch_tanh and false.')
  rope_base = float((text.get('rope_parameters') or text).get('rope_theta', 1e4))
  if options.get('head_norms') is None:  # T5Gemma 2 applies no cap to scores, even where one is configured
    attention_cap = text.get('attn_logit_softcapping', attention_cap) or 0.0
  return GemmaConfig(
      vocab_size=text.get('vocab_size', 256000), width=text['hidden_size'], layers=layers,
      heads=text['num_attention_heads'], kv_heads=text.get('num_key_value_heads', kv_heads),
      head_size=text.get('head_dim', 256), mlp_width=text['intermediate_size'],
      query_scale=float(text.get('query_pre_attn_scalar', query_scale)) if query_scale else 0.0,
      attention_cap=float(attention_cap), logit_cap=float(text.get('final_logit_softcapping', logit_cap) or 0),
      local_span=text.get('sliding_window', 4096) or 4096, epsilon=text.get('rms_norm_eps', 1e-6),
      **{'rope_base': rope_base, 'local_rope_base': rope_base, **options})


def _local(text: Json, layers: int, pattern: int) -> tuple[bool, ...]:
  """Return whether each layer is local; every `pattern`-th is global."""
  kinds = text.get('layer_types') or [
      'full_attention' if (i + 1) % pattern == 0 else 'sliding_attention' for i in range(layers)]
  unknown = sorted(set(kinds) - {'full_attention', 'sliding_attention'})
  if unknown or len(kinds) != layers:
    raise ValueError(f'config.json has layer_types of {len(kinds)} layers with {unknown or "no"} unknown kinds, '
                     f"expected {layers} of 'full_attention' or 'sliding_attention'.")
  return tuple(kind == 'sliding_attention' for kind in kinds)


def _rope(text: Json) -> dict[str, float]:
  rope = text.get('rope_parameters') or {}
  whole, local = rope.get('full_attention', {}), rope.get('sliding_attention', {})
  kinds = {whole.get('rope_type', 'default'), local.get('rope_type', 'default')}
  if not kinds <= {'default', 'linear'}:
    raise ValueError(f"config.json has rope_type {sorted(kinds)}, expected 'default' or 'linear'.")
  return {'rope_base': float(whole.get('rope_theta', 1e6)), 'rope_factor': float(whole.get('factor', 1)),
          'local_rope_base': float(local.get('rope_theta', 1e4))}


def _stack_names(tensor: str, place: str, layers: int, post_norms: bool, head_norms: bool, norms: tuple[str, str]
                 ) -> Names:
  """Return the names of a stack; Gemma 1 calls the MLP's norm `post_attention_layernorm`."""
  before, after = norms
  parts = {f'{before}.weight': 'attention_norm/scale'} | {
      f'self_attn.{a}_proj.weight': f'attention/{b}/kernel'
      for a, b in (('q', 'query'), ('k', 'key'), ('v', 'value'), ('o', 'out'))} | {
      f'mlp.{a}_proj.weight': f'mlp/{b}/kernel' for a, b in (('gate', 'hidden'), ('up', 'gate'), ('down', 'out'))}
  parts |= {f'{after}.weight': 'attention_post_norm/scale', 'pre_feedforward_layernorm.weight': 'mlp_norm/scale',
            'post_feedforward_layernorm.weight': 'mlp_post_norm/scale'} if post_norms else {
                f'{after}.weight': 'mlp_norm/scale'}
  parts |= {f'self_attn.{a}_norm.weight': f'attention/{b}_norm/scale' for a, b in (('q', 'query'), ('k', 'key'))
            } if head_norms else {}
  names: Names = {f'{tensor}layers.{i}.{a}': (f'{place}layers/{i}/{b}',)
                  for i in range(layers) for a, b in parts.items()}
  return names | {f'{tensor}norm.weight': (f'{place}norm/scale',)}


def _prefixed(tensor: str, place: str, names: Names) -> Names:
  return {f'{tensor}{a}': tuple(f'{place}{b}' for b in places) for a, places in names.items()}
