"""Reader of models as published on Hugging Face.

A model is a folder with config.json and model.safetensors, or its shards: a ViT (also with classifier), SigLIP's vision
tower (also in a complete SigLIP), T5 1.1, mT5 or UL2, PaliGemma (1 and 2), or T5Gemma 2. Tables here and in
huggingface_gemma.py give each tensor's name in the file and in rtjax.
Linear maps are [outputs, inputs] in the file, and in rtjax [inputs, outputs] with a separate axis for heads. The
tensors tell which optional parts exist (pooler, classifier, output head); configurations are silent, or wrong.
"""
import dataclasses
import difflib
import os
import pathlib
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jaxtyping import DTypeLike

from rtjax.models import abstract, parameters
from rtjax.models.backbones import t5
from rtjax.models.backbones.paligemma import PaliGemma, PaliGemmaConfig
from rtjax.models.backbones.siglip import SigLIPConfig
from rtjax.models.backbones.t5 import T5, T5Config
from rtjax.models.backbones.t5gemma2 import T5Gemma2, T5Gemma2Config
from rtjax.models.backbones.vit import ViT, ViTConfig
from rtjax.pretrained import huggingface_files, huggingface_gemma, huggingface_layout
from rtjax.pretrained.huggingface_files import Tensor
from rtjax.runtime import limits, serialization

_LANGUAGE_PARTS = 'text_config', 'encoder', 'decoder'
"""Parts of config.json that number padding, begin and end again."""
_RESAMPLE: dict[Literal['linear', 'cubic'], int] = {'linear': 2, 'cubic': 3}  # Pillow's numbers
_DTYPES = tuple(map(jnp.dtype, ('float32', 'bfloat16', 'float16')))

Config = ViTConfig | T5Config | PaliGemmaConfig | T5Gemma2Config
Json = Mapping[str, Any]
Shapes = Mapping[str, tuple[int, ...]]
Names = dict[str, tuple[str, ...]]
"""Name in the file -> name in rtjax; several names where the file stacks variables along the first axis."""

Ignored = dict[str, str]
"""Name of a tensor in the file (or its end) -> reason why it is not needed."""

Family = Callable[[Json, Shapes, bool], tuple[Config, Names, Ignored]]
"""From config.json, shapes of the tensors, and whether the output head is a copy."""


class Plan(NamedTuple):
  """Conversion of a file to a network.

  Attributes:
    config: configuration of the network.
    variables: shapes of its variables.
    names: variable or variables that each tensor becomes.
    ignored: tensors that the network does not use.
  """
  config: Config
  variables: Shapes
  names: Names
  ignored: Ignored


class Weights(NamedTuple):
  """Content of a folder: configuration, variables by name, and ignored tensors."""
  config: Config
  values: dict[str, jax.Array]
  ignored: Ignored


def load_huggingface(folder: str | os.PathLike, *, dtype: DTypeLike = 'float32',
                     sharding: Callable[[str, tuple[int, ...]], Sharding] | None = None
                     ) -> ViT | T5 | PaliGemma | T5Gemma2:
  """Load the model in a folder as published on Hugging Face.

  Tensors go to the devices one by one, so that the host holds one of them at a time, twice.

  Args:
    folder: config.json, whose `model_type` names the architecture, and model.safetensors (or
      model.safetensors.index.json and its shards) in float32, bfloat16 or float16.
    dtype: type of the parameters: float32, bfloat16 or float16.
    sharding: place of a variable on the devices, from its name and shape, such as
      `rtjax.training.sharding.by_name(mesh)`; None: the default device.

  Returns:
    A `ViT`, `SigLIP`, `T5`, `PaliGemma` or `T5Gemma2` that computes in float32. A warning names the
    tensors of the file that were ignored.

  Raises:
    FileNotFoundError: there is no such folder or file; for a PyTorch file alone, the error tells how to convert it.
    ValueError: another architecture or type, a damaged file, or tensors are missing, unknown, of another shape or not
      finite; the error names them.
  """
  if jnp.dtype(dtype) not in _DTYPES:
    raise ValueError(f'dtype is {dtype!r}, expected one of {[str(known) for known in _DTYPES]}.')
  found, tensors = open_folder(folder)
  if found.ignored:
    reasons = [f'{reason}: {huggingface_files.some([name for name, why in found.ignored.items() if why == reason])}'
               for reason in dict.fromkeys(found.ignored.values())]
    warnings.warn(f'{folder}: {len(found.ignored)} tensors were ignored. ' + '; '.join(reasons), stacklevel=2)
  model = abstract(found.config)
  parameters.assign_each(model, stream(found, tensors, dtype), dtype=dtype, sharding=sharding)
  return model


def read(folder: str | os.PathLike) -> Weights:
  """Read a folder into memory, in float32."""
  found, tensors = open_folder(folder)
  return Weights(found.config, {name: jnp.asarray(value) for name, value in stream(found, tensors)}, found.ignored)


def open_folder(folder: str | os.PathLike) -> tuple[Plan, dict[str, Tensor]]:
  """Return the conversion of a folder, and its tensors, unread.

  Raises:
    FileNotFoundError, ValueError: see `load_huggingface`.
  """
  folder = pathlib.Path(folder)
  config = huggingface_files.read_config(folder)
  tensors = huggingface_files.find_tensors(folder)
  shapes = {name: tensor.shape for name, tensor in tensors.items()}
  found = plan(config, shapes, str(folder), tied=_is_tied(config, tensors))
  settings = huggingface_files.read_preprocessor(folder)
  return found._replace(config=_preprocessed(found.config, settings, folder)), tensors


def read_architecture(folder: str | os.PathLike) -> Config:
  """Return the configuration of a folder's network, from JSON alone.

  Raises:
    FileNotFoundError, ValueError: see `load_huggingface`.
  """
  folder = pathlib.Path(folder)
  config, *_ = understand(huggingface_files.read_config(folder), {}, str(folder))
  return _preprocessed(config, huggingface_files.read_preprocessor(folder), folder)


def _preprocessed(config: Config, settings: Json, folder: pathlib.Path) -> Config:
  """Return a configuration whose `preprocess` is that of the folder's image processor."""
  if isinstance(config, (PaliGemmaConfig, T5Gemma2Config)):
    vision = dataclasses.replace(config.vision, interpolation=_interpolation(config.vision, settings, folder))
    return dataclasses.replace(config, vision=vision)
  if isinstance(config, ViTConfig):
    return dataclasses.replace(config, interpolation=_interpolation(config, settings, folder))
  return config


def _interpolation(config: ViTConfig, settings: Json, folder: pathlib.Path) -> Literal['linear', 'cubic']:
  """Return how images are resized; layouts alone do not tell.

  Raises:
    ValueError: the image processor does what `preprocess` cannot.
  """
  resample = _RESAMPLE[config.interpolation] if settings.get('resample') is None else settings['resample']
  expected = {'image_mean': [0.5] * 3, 'image_std': [0.5] * 3, 'do_rescale': True, 'do_normalize': True}
  wrong = {key: settings[key] for key, value in expected.items() if settings.get(key, value) not in (value, None)}
  wrong |= {} if resample in _RESAMPLE.values() else {'resample': resample}
  if wrong:
    raise ValueError(f'the image processor in {folder} has {wrong}, expected {expected} and resample 2 (linear) or 3 '
                     '(cubic). To load the network alone, move preprocessor_config.json elsewhere.')
  return next(name for name, number in _RESAMPLE.items() if number == resample)


def stream(found: Plan, tensors: Mapping[str, Tensor], dtype: DTypeLike = 'float32',
           wanted: Container[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
  """Yield the variables by name, tensor by tensor and shard by shard.

  Args:
    wanted: names of the variables to yield; tensors of no such variable are not read. None yields all.
  """
  for tensor in tensors.values():
    places = found.names.get(tensor.name, ())
    if any(wanted is None or place in wanted for place in places):
      yield from _variables(tensor, places, found.variables, dtype, wanted)


def _variables(tensor: Tensor, places: tuple[str, ...], variables: Shapes, dtype: DTypeLike,
               wanted: Container[str] | None) -> Iterator[tuple[str, np.ndarray]]:
  """Yield the variables of one tensor after the other."""
  for place, part in zip(places, np.split(tensor.read(), len(places)), strict=True):
    if wanted is None or place in wanted:
      yield place, huggingface_layout.read(part, tensor.name, place, variables[place], dtype)


def plan(config: Json, shapes: Shapes, source: str, *, tied: bool = False) -> Plan:
  """Return the conversion of tensors of these names and shapes.

  Args:
    config: config.json.
    source: file of the tensors, for errors.
    tied: whether T5's output head, if it is in the file, is a copy of the embedding table.

  Raises:
    ValueError: see `load_huggingface`.
  """
  converted, names, unused = understand(config, shapes, source, tied=tied)
  ignored = {name: why for name in shapes for end, why in unused.items() if name not in names and end in f'.{name}'}
  variables = parameters.shapes(abstract(converted))
  expected = {tensor: huggingface_layout.shape_in_file(tensor, places, variables) for tensor, places in names.items()}
  given = {name: expected[name] if name in expected and _squeeze(shape) == _squeeze(expected[name]) else shape
           for name, shape in shapes.items() if name not in ignored}
  parameters.check(expected, given, f'by its config.json, the tensors of {source}')
  return Plan(converted, variables, names, ignored)


def understand(config: Json, shapes: Shapes, source: str, *, tied: bool = False) -> tuple[Config, Names, Ignored]:
  """Return configuration, names and ignored tensors; arguments as for `plan`."""
  try:
    limits.check_network(config)
    converted, names, ignored = _family(config)(config, shapes, tied)
    serialization.from_json(serialization.to_json(converted), type(converted))  # checks the types
    _check_special_ids(config, _SPECIAL_IDS.get(type(converted), {}))
  except ValueError as error:
    raise ValueError(f'{source}: {error}') from error
  except (ArithmeticError, AttributeError, KeyError, TypeError) as error:
    raise ValueError(f'config.json of {source} lacks an entry or has one of a wrong type: {error}.') from error
  return converted, names, ignored


def _family(config: Json) -> Family:
  name = config.get('model_type')
  if name in _FAMILIES:
    return _FAMILIES[name]
  if name in _OTHERS:
    raise ValueError(f'config.json has model_type {name!r}: {_OTHERS[name]}')
  close = difflib.get_close_matches(str(name), _FAMILIES, 1)
  hint = f' Did you mean {close[0]!r}?' if close else ''
  raise ValueError(f'config.json has model_type {name!r}, expected one of {sorted(_FAMILIES)}.{hint}')


def _vit(config: Json, shapes: Shapes, tied: bool) -> tuple[ViTConfig, Names, Ignored]:
  prefix = 'vit.' if any(name.startswith('vit.') for name in shapes) else ''
  _expect(config, 'qkv_bias', True)
  _expect(config, 'pooler_act', 'tanh')
  pooler = any(name.startswith(f'{prefix}pooler.') for name in shapes)
  classes = shapes.get('classifier.weight', (0,))[0]
  vit = ViTConfig(**_vision(config, 1e-12, 'gelu'), pooler=pooler, classes=classes)
  places = [('embeddings.patch_embeddings.projection', 'patch_embedding'), *_layers(vit.layers, 'encoder.layer', (
      ('layernorm_before', 'attention_norm'), ('attention.attention.query', 'attention/query'),
      ('attention.attention.key', 'attention/key'), ('attention.attention.value', 'attention/value'),
      ('attention.output.dense', 'attention/out'), ('layernorm_after', 'mlp_norm'),
      ('intermediate.dense', 'mlp/hidden'), ('output.dense', 'mlp/out'))), ('layernorm', 'norm')]
  places += [('pooler.dense', 'pooler')] if pooler else []
  names = {f'{prefix}{tensor}': place for tensor, place in _weights_and_biases(places).items()}
  names |= {f'{prefix}embeddings.cls_token': ('class_token',),
            f'{prefix}embeddings.position_embeddings': ('positions',)}
  return vit, names | (_weights_and_biases([('classifier', 'classifier')]) if classes else {}), {}


def _siglip(config: Json, shapes: Shapes, tied: bool) -> tuple[SigLIPConfig, Names, Ignored]:
  config = config.get('vision_config', config)
  if config.get('model_type') in _OTHERS:
    _family(config)
  pooler = any(name.startswith('vision_model.head.') for name in shapes)
  siglip = SigLIPConfig(**_vision(config, 1e-6, 'gelu_pytorch_tanh'), pooler=pooler)
  places = [('embeddings.patch_embedding', 'patch_embedding'), *_layers(siglip.layers, 'encoder.layers', (
      ('layer_norm1', 'attention_norm'), ('self_attn.q_proj', 'attention/query'), ('self_attn.k_proj', 'attention/key'),
      ('self_attn.v_proj', 'attention/value'), ('self_attn.out_proj', 'attention/out'), ('layer_norm2', 'mlp_norm'),
      ('mlp.fc1', 'mlp/hidden'), ('mlp.fc2', 'mlp/out'))), ('post_layernorm', 'norm')]
  names: Names = {'embeddings.position_embedding.weight': ('positions',)}
  if pooler:
    places += [('head.attention.out_proj', 'pooler/attention/out'), ('head.layernorm', 'pooler/norm'),
               ('head.mlp.fc1', 'pooler/mlp/hidden'), ('head.mlp.fc2', 'pooler/mlp/out')]
    names['head.probe'] = ('pooler/query',)
    for suffix, variable in (('weight', 'kernel'), ('bias', 'bias')):
      names[f'head.attention.in_proj_{suffix}'] = tuple(
          f'pooler/attention/{part}/{variable}' for part in ('query', 'key', 'value'))
  names |= _weights_and_biases(places)
  beyond = 'of a complete SigLIP, beyond its vision tower'
  return siglip, {f'vision_model.{tensor}': variables for tensor, variables in names.items()}, {
      '.text_model.': beyond, '.logit_scale': beyond, '.logit_bias': beyond, '.position_ids': '0, 1, 2, ...'}


def _t5(config: Json, shapes: Shapes, tied: bool) -> tuple[T5Config, Names, Ignored]:
  _expect(config, 'layer_norm_epsilon', t5.EPSILON)
  multilingual = config['model_type'] == 'mt5'  # the two have different defaults
  activation = str(config.get('feed_forward_proj', 'gated-gelu' if multilingual else 'relu'))
  known: dict[str, Literal['gelu_tanh', 'silu']] = {
      'gated-gelu': 'gelu_tanh', 'gated-gelu_new': 'gelu_tanh', 'gated-silu': 'silu'}
  if activation not in known:
    raise ValueError(f'config.json has feed_forward_proj {activation!r}, expected one of {sorted(known)}: T5 1.1 and '
                     "its successors. T5 1.0 ('relu') is another network.")
  layers = config.get('num_layers', 8 if multilingual else 6)
  converted = T5Config(
      vocab_size=config.get('vocab_size', 250112 if multilingual else 32128), width=config.get('d_model', 512),
      head_size=config.get('d_kv', 64), mlp_width=config.get('d_ff', 1024 if multilingual else 2048),
      encoder_layers=layers, decoder_layers=config.get('num_decoder_layers') or layers,
      heads=config.get('num_heads', 6 if multilingual else 8), activation=known[activation],
      buckets=config.get('relative_attention_num_buckets', 32), dropout=config.get('dropout_rate', 0.1),
      max_distance=config.get('relative_attention_max_distance', 128), tied=tied or not _has_head(config, shapes))
  names: Names = {'shared.weight': ('token_embedding/embedding',)}
  if not converted.tied:
    names['lm_head.weight'] = ('token_head/kernel',)
  for stack, count, parts in (
      ('encoder', converted.encoder_layers, ('SelfAttention', 'DenseReluDense')),
      ('decoder', converted.decoder_layers, ('SelfAttention', 'EncDecAttention', 'DenseReluDense'))):
    names[f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight'] = (f'{stack}/relative_bias',)
    names[f'{stack}.final_layer_norm.weight'] = (f'{stack}/norm/scale',)
    for i in range(count):
      for number, part in enumerate(parts):
        names |= _t5_part(f'{stack}.block.{i}.layer.{number}.', part, f'{stack}/layers/{i}/')
  copy = 'a copy of shared.weight'
  return converted, names, {
      'coder.embed_tokens.weight': copy, '.lm_head.weight': copy,
      # In T5's first files; later code never read it.
      '.decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight': 'cross-attention has no position bias'}


def _t5_part(tensor: str, part: str, layer: str) -> Names:
  """Return the names of a part of a layer and its norm."""
  module, linears = {
      'SelfAttention': ('attention', {'q': 'query', 'k': 'key', 'v': 'value', 'o': 'out'}),
      'EncDecAttention': ('cross_attention', {'q': 'query', 'k': 'key', 'v': 'value', 'o': 'out'}),
      'DenseReluDense': ('mlp', {'wi_0': 'hidden', 'wi_1': 'gate', 'wo': 'out'})}[part]
  names: Names = {f'{tensor}layer_norm.weight': (f'{layer}{module}_norm/scale',)}
  return names | {f'{tensor}{part}.{a}.weight': (f'{layer}{module}/{b}/kernel',) for a, b in linears.items()}


def _paligemma(config: Json, shapes: Shapes, tied: bool) -> tuple[PaliGemmaConfig, Names, Ignored]:
  vision, names, _ = _siglip(config, {}, tied)
  return huggingface_gemma.paligemma(config, shapes, vision, names)


def _t5gemma2(config: Json, shapes: Shapes, tied: bool) -> tuple[T5Gemma2Config, Names, Ignored]:
  vision, names, _ = _siglip(config['encoder'], {}, tied)
  vision = dataclasses.replace(vision, interpolation='linear')  # as Gemma 3's images are resized
  return huggingface_gemma.t5gemma2(config, shapes, vision, names)


_FAMILIES: dict[str, Family] = {
    'vit': _vit, 'siglip': _siglip, 'siglip_vision_model': _siglip, 't5': _t5, 'mt5': _t5, 'paligemma': _paligemma,
    't5gemma2': _t5gemma2}

_SPECIAL_IDS: dict[type, dict[str, int]] = {
    T5Config: {'pad_token_id': t5.PAD, 'decoder_start_token_id': t5.PAD, 'eos_token_id': t5.END},
    **{kind: {'pad_token_id': kind.pad_id, 'bos_token_id': kind.begin_id, 'eos_token_id': kind.end_id}
       for kind in (PaliGemmaConfig, T5Gemma2Config)}}

_NAFLEX = ('the NaFlex kind of SigLIP 2, another network: it takes patches of images of any aspect. Use a SigLIP 2 of '
           "one size, such as siglip2-so400m-patch14-224, whose model_type is 'siglip'.")
_TEXT_ALONE = 'a language model that sees no images. Use PaliGemma or T5Gemma 2, which are made of such layers.'
_OTHERS = {
    **dict.fromkeys(('gemma', 'gemma2', 'gemma3_text'), _TEXT_ALONE),
    'siglip2': _NAFLEX, 'siglip2_vision_model': _NAFLEX,
    't5gemma': 'the first T5Gemma, another network: its decoder attends to the encoder in layers of their own, and '
               'it sees no images. Use T5Gemma 2.',
    'umt5': 'another network than mT5: each of its layers has position biases of its own. Use mT5.'}
"""Networks whose names look like those of known ones."""


def _vision(config: Json, epsilon: float, activation: str) -> dict[str, Any]:
  """Return the fields common to ViT and SigLIP."""
  _expect(config, 'num_channels', 3)
  activation, known = config.get('hidden_act', activation), {
      'gelu': 'gelu', 'gelu_pytorch_tanh': 'gelu_tanh', 'gelu_new': 'gelu_tanh'}
  if activation not in known:
    raise ValueError(f'config.json has hidden_act {activation!r}, expected one of {sorted(known)}.')
  size = config.get('image_size', 224)
  return {'image_size': (size, size) if isinstance(size, int) else tuple(size), 'patch': config.get('patch_size', 16),
          'width': config.get('hidden_size', 768), 'layers': config.get('num_hidden_layers', 12),
          'heads': config.get('num_attention_heads', 12), 'mlp_width': config.get('intermediate_size', 3072),
          'epsilon': config.get('layer_norm_eps', epsilon), 'activation': known[activation]}


def _layers(count: int, prefix: str, parts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
  return [(f'{prefix}.{i}.{a}', f'layers/{i}/{b}') for i in range(count) for a, b in parts]


def _weights_and_biases(modules: Iterable[tuple[str, str]]) -> Names:
  """Return the names of the variables of linear maps and norms.

  Args:
    modules: (name in the file, name in rtjax).
  """
  return {f'{theirs}.{a}': (f'{ours}/{"scale" if ours.endswith("norm") and a == "weight" else b}',)
          for theirs, ours in modules for a, b in (('weight', 'kernel'), ('bias', 'bias'))}


def _check_special_ids(config: Json, expected: Mapping[str, int]) -> None:
  """Refuse other ids of padding, begin and end."""
  for key, token in expected.items():
    given = config.get(key)
    if given is not None and token not in (given if isinstance(given, list) else [given]):
      raise ValueError(f'config.json has {key} {given!r}, expected {token}: this reader knows no other.')
  for part in _LANGUAGE_PARTS:
    if expected and part in config:
      _check_special_ids(config[part], expected)


def _expect(config: Json, key: str, value: Any) -> None:
  if config.get(key, value) != value:
    raise ValueError(f'config.json has {key} {config[key]!r}, expected {value!r}: this reader knows no other.')


def _has_head(config: Json, shapes: Shapes) -> bool:
  """Return whether file or config.json give T5 a separate head."""
  return 'lm_head.weight' in shapes or config.get('tie_word_embeddings') is False


def _is_tied(config: Json, tensors: Mapping[str, Tensor]) -> bool:
  """Return whether the output head in the file copies the embedding table.

  transformers 5 writes `tie_word_embeddings: true` for separate heads too, so that only the numbers tell.
  """
  if 'lm_head.weight' not in tensors or 'shared.weight' not in tensors or config.get('tie_word_embeddings') is False:
    return False
  return tensors['lm_head.weight'].equals(tensors['shared.weight'])


def _squeeze(shape: tuple[int, ...]) -> tuple[int, ...]:
  """Return the shape without leading ones, which some files have."""
  return _squeeze(shape[1:]) if len(shape) > 1 and shape[0] == 1 else shape
