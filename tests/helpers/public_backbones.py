"""Tiny public backbones with random weights, as folders in the published layout, with their tokenizers."""
import dataclasses
import pathlib

from helpers import tiny_tokenizers
from rtjax import models
from rtjax.language.tokenizer import Tokenizer
from rtjax.models.backbones.gemma import GemmaConfig
from rtjax.models.backbones.pali import PaLIConfig
from rtjax.models.backbones.paligemma import PaliGemmaConfig
from rtjax.models.backbones.siglip import SigLIPConfig
from rtjax.models.backbones.t5 import T5Config
from rtjax.models.backbones.t5gemma2 import T5Gemma2Config
from rtjax.pretrained import save_huggingface

_VISION = SigLIPConfig(image_size=(16, 16), patch=8, width=16, layers=1, heads=2, mlp_width=24)
_GEMMA = GemmaConfig(vocab_size=680, width=16, layers=1, heads=2, kv_heads=1, head_size=8, mlp_width=24)
_GEMMA_3 = dataclasses.replace(_GEMMA, layers=2, post_norms=True, head_norms=True, local=(True, False), local_span=16)

CONFIGS = {
    'paligemma': PaliGemmaConfig(_VISION, dataclasses.replace(_GEMMA, vocab_size=1576), image_id=1261),
    't5gemma2': T5Gemma2Config(
        dataclasses.replace(_VISION, interpolation='linear'), _GEMMA_3, _GEMMA_3, pooled_tokens=4, image_begin=(108, 4),
        image_end=(5, 108), end_of_image=5),
    'pali_mt5': PaLIConfig(_VISION, T5Config(
        vocab_size=1536, width=16, head_size=8, mlp_width=24, encoder_layers=1, decoder_layers=1, heads=2,
        dropout=0.0))}


def write(family: str, folder: pathlib.Path) -> dict[str, str]:
  """Write the folders of a family; return the settings of `init` that start from them."""
  backbone = models.build(CONFIGS[family], seed=3)
  if family == 'pali_mt5':
    save_huggingface(backbone.vision, folder / 'siglip')
    save_huggingface(backbone.text, folder / 'mt5')
    (folder / 'mt5/spiece.model').write_bytes(Tokenizer().model)
    return {'vision': str(folder / 'siglip'), 'text': str(folder / 'mt5')}
  save_huggingface(backbone, folder / family)
  (folder / family / 'tokenizer.json').write_bytes(
      tiny_tokenizers.gemma_json(1024) if family == 'paligemma' else tiny_tokenizers.gemma_json(256, version=3))
  return {'backbone': str(folder / family)}
