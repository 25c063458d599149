"""Models as published on Hugging Face: a folder with config.json and model.safetensors, whole or in shards.

What is read: ViT (also with classifier), SigLIP's vision tower (also out of a whole SigLIP), T5 1.1, mT5 and UL2.
Tables below give each tensor's name in the file and in rtjax. Linear maps lie there as [outputs, inputs], here as
[inputs, outputs] with the heads as an axis of their own. Which parts there are (pooler, classifier, output head) is
told by the file: configurations say nothing, or otherwise.
"""
import difflib
import json
import os
import pathlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rtjax.models import Config, Model, SigLIPConfig, T5Config, ViTConfig, abstract, from_values, parameters
from rtjax.models.backbones import t5 as t5_module
from rtjax.pretrained import safetensors

_SAFETENSORS, _INDEX = 'model.safetensors', 'model.safetensors.index.json'
_CONVERT = ('python -c "import glob, torch; from safetensors.torch import save_file; '
            'files = glob.glob(\'pytorch_model*.bin\'); '
            'tensors = {k: v.clone() for f in files for k, v in torch.load(f, weights_only=True).items()}; '
            'save_file(tensors, \'model.safetensors\')"')

Shapes = Mapping[str, tuple[int, ...]]
Names = dict[str, tuple[str, ...]]  # in the file -> in rtjax; several where the file stacks them along the first axis


class Plan(NamedTuple):
  """How a file becomes a network.

  Attributes:
    config: the network's.
    variables: its variables' shapes.
    names: where each tensor goes.
    ignored: tensors that the network has no use for, and why.
  """
  config: Config
  variables: Shapes
  names: Names
  ignored: dict[str, str]


class Weights(NamedTuple):
  """What a folder holds: the network's configuration, its variables by rtjax's names, and what was ignored and why."""
  config: Config
  values: dict[str, jax.Array]
  ignored: dict[str, str]


def load_huggingface(folder: str | os.PathLike) -> Model:
  """The model in a folder as published on Hugging Face, its architecture by config.json's `model_type`.

  Args:
    folder: with config.json and model.safetensors (or model.safetensors.index.json and its shards), in float32,
      bfloat16 or float16; needs `pip install safetensors`.

  Returns:
    A `ViT`, `SigLIP` or `T5`, which computes in float32. Tensors of the file that were ignored are named in a warning.

  Raises:
    FileNotFoundError: no such folder or file; of a PyTorch file alone, it says how to convert it.
    ValueError: another architecture, or tensors are missing, unknown or of another shape; the error names them.
  """
  config, values, ignored = read(folder)
  if ignored:
    reasons = [f'{reason}: {_some([name for name, why in ignored.items() if why == reason])}'
               for reason in dict.fromkeys(ignored.values())]
    warnings.warn(f'{folder}: {len(ignored)} tensors were ignored. ' + '; '.join(reasons), stacklevel=2)
  return from_values(config, values)


def read(folder: str | os.PathLike) -> Weights:
  """As `load_huggingface`, without making a network of it: for parts of other networks."""
  folder = pathlib.Path(folder)
  described = _read_config(folder)
  files = _find_tensors(folder)
  shapes = {name: tuple(file.get_slice(name).get_shape()) for name, file in files.items()}
  config, variables, names, ignored = plan(described, shapes, str(folder), tied=_tied(described, files))
  values: dict[str, jax.Array] = {}
  for theirs, places in names.items():
    # One by one, so that no more than one tensor is there twice.
    parts = np.split(files[theirs].get_tensor(theirs), len(places))
    values |= {place: _convert(part, place, variables[place]) for place, part in zip(places, parts, strict=True)}
  return Weights(config, values, ignored)


def plan(config: Mapping[str, Any], shapes: Shapes, what: str, *, tied: bool = False) -> Plan:
  """How tensors of these names and shapes become a network, without looking at their values.

  Args:
    config: config.json.
    what: tells where they come from, for errors.
    tied: that T5's output head, if it is in the file, is a copy of the table of embeddings.

  Raises:
    ValueError: see `load_huggingface`.
  """
  ours, names, unused = _family(config)(config, shapes, tied)
  ignored = {name: why for name in shapes for end, why in unused.items() if name not in names and end in f'.{name}'}
  variables = parameters.shapes(abstract(ours))
  wanted = {theirs: _their_shape(places, variables) for theirs, places in names.items()}
  if patches := next((theirs for theirs in names if 'patch_embedding' in theirs and theirs.endswith('weight')), None):
    wanted[patches] = (ours.width, 3, ours.patch, ours.patch)
  given = {name: wanted[name] if name in wanted and _bare(shape) == _bare(wanted[name]) else shape
           for name, shape in shapes.items() if name not in ignored}
  parameters.check(wanted, given, f'the tensors of {what}')
  return Plan(ours, variables, names, ignored)


def _family(config: Mapping[str, Any]) -> Callable[[Mapping[str, Any], Shapes, bool], tuple[Config, Names, dict]]:
  kind = config.get('model_type')
  if kind in _FAMILIES:
    return _FAMILIES[kind]
  if kind in ('paligemma', 't5gemma2'):
    raise ValueError(f'model_type {kind!r} is not supported by this reader, which knows {sorted(_FAMILIES)}.')
  close = difflib.get_close_matches(str(kind), _FAMILIES, 1)
  hint = f' Did you mean {close[0]!r}?' if close else ''
  raise ValueError(f'config.json has model_type {kind!r}, expected one of {sorted(_FAMILIES)}.{hint}')


def _vit(config: Mapping[str, Any], shapes: Shapes, tied: bool) -> tuple[ViTConfig, Names, dict[str, str]]:
  prefix = 'vit.' if any(name.startswith('vit.') for name in shapes) else ''
  _expect(config, 'qkv_bias', True)
  _expect(config, 'pooler_act', 'tanh')
  pooler = any(name.startswith(f'{prefix}pooler.') for name in shapes)
  classes = shapes.get('classifier.weight', (0,))[0]
  ours = ViTConfig(**_vision(config, 1e-12, 'gelu'), pooler=pooler, classes=classes)
  places = [('embeddings.patch_embeddings.projection', 'patch_embedding'), *_layers(ours.layers, 'encoder.layer', (
      ('layernorm_before', 'attention_norm'), ('attention.attention.query', 'attention/query'),
      ('attention.attention.key', 'attention/key'), ('attention.attention.value', 'attention/value'),
      ('attention.output.dense', 'attention/out'), ('layernorm_after', 'mlp_norm'),
      ('intermediate.dense', 'mlp/hidden'), ('output.dense', 'mlp/out'))), ('layernorm', 'norm')]
  places += [('pooler.dense', 'pooler')] if pooler else []
  names = {f'{prefix}{theirs}': ours for theirs, ours in _weights_and_biases(places).items()}
  names |= {f'{prefix}embeddings.cls_token': ('class_token',),
            f'{prefix}embeddings.position_embeddings': ('positions',)}
  return ours, names | (_weights_and_biases([('classifier', 'classifier')]) if classes else {}), {}


def _siglip(config: Mapping[str, Any], shapes: Shapes, tied: bool) -> tuple[SigLIPConfig, Names, dict[str, str]]:
  config = config.get('vision_config', config)
  pooler = any(name.startswith('vision_model.head.') for name in shapes)
  ours = SigLIPConfig(**_vision(config, 1e-6, 'gelu_pytorch_tanh'), pooler=pooler)
  places = [('embeddings.patch_embedding', 'patch_embedding'), *_layers(ours.layers, 'encoder.layers', (
      ('layer_norm1', 'attention_norm'), ('self_attn.q_proj', 'attention/query'), ('self_attn.k_proj', 'attention/key'),
      ('self_attn.v_proj', 'attention/value'), ('self_attn.out_proj', 'attention/out'), ('layer_norm2', 'mlp_norm'),
      ('mlp.fc1', 'mlp/hidden'), ('mlp.fc2', 'mlp/out'))), ('post_layernorm', 'norm')]
  names: Names = {'embeddings.position_embedding.weight': ('positions',)}
  if pooler:
    places += [('head.attention.out_proj', 'pooler/attention/out'), ('head.layernorm', 'pooler/norm'),
               ('head.mlp.fc1', 'pooler/mlp/hidden'), ('head.mlp.fc2', 'pooler/mlp/out')]
    names['head.probe'] = ('pooler/query',)
    for theirs, kind in (('weight', 'kernel'), ('bias', 'bias')):
      names[f'head.attention.in_proj_{theirs}'] = tuple(
          f'pooler/attention/{part}/{kind}' for part in ('query', 'key', 'value'))
  names |= _weights_and_biases(places)
  whole = "a whole SigLIP's, beyond its vision tower"
  return ours, {f'vision_model.{theirs}': places for theirs, places in names.items()}, {
      '.text_model.': whole, '.logit_scale': whole, '.logit_bias': whole, '.position_ids': 'just counts'}


def _t5(config: Mapping[str, Any], shapes: Shapes, tied: bool) -> tuple[T5Config, Names, dict[str, str]]:
  _expect(config, 'layer_norm_epsilon', t5_module.EPSILON)
  multilingual = config['model_type'] == 'mt5'  # the two have other defaults
  activation = str(config.get('feed_forward_proj', 'gated-gelu' if multilingual else 'relu'))
  known: dict[str, Any] = {'gated-gelu': 'gelu', 'gated-gelu_new': 'gelu', 'gated-silu': 'silu'}
  if activation not in known:
    raise ValueError(f'config.json has feed_forward_proj {activation!r}, expected one of {sorted(known)}: T5 1.1 and '
                     "its successors. T5 1.0 ('relu') is another network.")
  layers = config.get('num_layers', 8 if multilingual else 6)
  ours = T5Config(
      vocab_size=config.get('vocab_size', 250112 if multilingual else 32128), width=config.get('d_model', 512),
      head_size=config.get('d_kv', 64), mlp_width=config.get('d_ff', 1024 if multilingual else 2048),
      encoder_layers=layers, decoder_layers=config.get('num_decoder_layers') or layers,
      heads=config.get('num_heads', 6 if multilingual else 8), activation=known[activation],
      buckets=config.get('relative_attention_num_buckets', 32), dropout=config.get('dropout_rate', 0.1),
      max_distance=config.get('relative_attention_max_distance', 128), tied=tied or not _own_head(config, shapes))
  names: Names = {'shared.weight': ('token_embedding/embedding',)}
  if not ours.tied:
    names['lm_head.weight'] = ('token_head/kernel',)
  for stack, count, parts in (('encoder', ours.encoder_layers, ('SelfAttention', 'DenseReluDense')),
                              ('decoder', ours.decoder_layers, ('SelfAttention', 'EncDecAttention', 'DenseReluDense'))):
    names[f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight'] = (f'{stack}/relative_bias',)
    names[f'{stack}.final_layer_norm.weight'] = (f'{stack}/norm/scale',)
    for i in range(count):
      for place, part in enumerate(parts):
        names |= _t5_part(f'{stack}.block.{i}.layer.{place}.', part, f'{stack}/layers/{i}/')
  copy = 'a copy of shared.weight'
  return ours, names, {
      'coder.embed_tokens.weight': copy, '.lm_head.weight': copy,
      # Of T5's first files, which later code never read.
      '.decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight': 'of a bias that does not exist'}


def _t5_part(theirs: str, part: str, layer: str) -> Names:
  """One part of a layer, with the norm before it."""
  ours, tensors = {
      'SelfAttention': ('attention', {'q': 'query', 'k': 'key', 'v': 'value', 'o': 'out'}),
      'EncDecAttention': ('cross_attention', {'q': 'query', 'k': 'key', 'v': 'value', 'o': 'out'}),
      'DenseReluDense': ('mlp', {'wi_0': 'hidden', 'wi_1': 'gate', 'wo': 'out'})}[part]
  names: Names = {f'{theirs}layer_norm.weight': (f'{layer}{ours}_norm/scale',)}
  return names | {
      f'{theirs}{part}.{a}.weight': (f'{layer}{ours}/{b}/kernel',) for a, b in tensors.items()}


_FAMILIES: dict[str, Any] = {'vit': _vit, 'siglip': _siglip, 'siglip_vision_model': _siglip, 't5': _t5, 'mt5': _t5}


def _vision(config: Mapping[str, Any], epsilon: float, activation: str) -> dict[str, Any]:
  """What the configurations of ViT and SigLIP share; what they leave out has the defaults of their base size."""
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


def _layers(count: int, theirs: str, parts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
  return [(f'{theirs}.{i}.{a}', f'layers/{i}/{b}') for i in range(count) for a, b in parts]


def _weights_and_biases(places: Iterable[tuple[str, str]]) -> Names:
  """Of linear maps and norms."""
  return {f'{theirs}.{a}': (f'{ours}/{"scale" if ours.endswith("norm") and a == "weight" else b}',)
          for theirs, ours in places for a, b in (('weight', 'kernel'), ('bias', 'bias'))}


def _expect(config: Mapping[str, Any], key: str, value: Any) -> None:
  if config.get(key, value) != value:
    raise ValueError(f'config.json has {key} {config[key]!r}; this reader knows {value!r} alone.')


def _own_head(config: Mapping[str, Any], shapes: Shapes) -> bool:
  """Whether T5 has an output head of its own; if config.json says so, the file has to hold it."""
  return 'lm_head.weight' in shapes or config.get('tie_word_embeddings') is False


def _tied(config: Mapping[str, Any], files: Mapping[str, Any]) -> bool:
  """Whether the output head in the file is but a copy. transformers 5 writes `tie_word_embeddings: true` over heads of
  their own, so that only the numbers tell."""
  if 'lm_head.weight' not in files or 'shared.weight' not in files or config.get('tie_word_embeddings') is False:
    return False
  return np.array_equal(*(files[name].get_tensor(name) for name in ('lm_head.weight', 'shared.weight')))


def _their_shape(places: tuple[str, ...], ours: Shapes) -> tuple[int, ...]:
  """The shape of the file's tensor that becomes our variables."""
  shape, size = ours[places[0]], int(np.prod(ours[places[0]]))
  if places[0].endswith('kernel'):
    inputs = int(np.prod(shape[:-1])) if places[0].endswith('out/kernel') else shape[0]
    return size // inputs * len(places), inputs
  return (size * len(places),) if places[0].endswith('bias') and not places[0].endswith('relative_bias') else shape


def _convert(value: np.ndarray, place: str, shape: tuple[int, ...]) -> jax.Array:
  if place == 'patch_embedding/kernel':
    value = value.transpose(2, 3, 1, 0)  # [D, 3, P, P]
  elif place.endswith('kernel'):
    value = value.T
  return jnp.asarray(value.reshape(shape), jnp.float32)


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
  """Without ones in front, which class tokens and positions have in some files."""
  return _bare(shape[1:]) if len(shape) > 1 and shape[0] == 1 else shape


def _read_config(folder: pathlib.Path) -> dict[str, Any]:
  path = folder / 'config.json'
  if not path.is_file():
    held = f'it holds {sorted(p.name for p in folder.iterdir())[:5]}' if folder.is_dir() else 'there is no such folder'
    raise FileNotFoundError(f'no config.json in {folder} ({held}): expected a folder as published on Hugging Face.')
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f'{path} is no JSON: {error}.') from None


def _find_tensors(folder: pathlib.Path) -> dict[str, Any]:
  """The open file that holds each tensor."""
  if (folder / _SAFETENSORS).is_file():
    file = safetensors.open_file(folder / _SAFETENSORS)
    return dict.fromkeys(file.keys(), file)
  if (folder / _INDEX).is_file():
    places: dict[str, str] = json.loads((folder / _INDEX).read_text())['weight_map']
    lost = sorted({name for name in places.values() if not (folder / name).is_file()})
    if lost:
      raise FileNotFoundError(f'{folder / _INDEX} names shards that are not there: {_some(lost)}. Download them too.')
    shards = {name: safetensors.open_file(folder / name) for name in sorted(set(places.values()))}
    return {tensor: file for file in shards.values() for tensor in file.keys()}  # noqa: SIM118 (no mapping)
  if sorted(folder.glob('pytorch_model*.bin')):
    raise FileNotFoundError(f'{folder} holds pytorch_model.bin and no {_SAFETENSORS}. Convert it once, in that folder, '
                            f'where PyTorch is installed:\n  {_CONVERT}')
  raise FileNotFoundError(f'no {_SAFETENSORS} and no {_INDEX} in {folder}; it holds '
                          f'{_some(sorted(p.name for p in folder.iterdir()))}.')


def _some(names: list[str], most: int = 5) -> str:
  return ', '.join(names[:most]) + (f' and {len(names) - most} more' if len(names) > most else '')
