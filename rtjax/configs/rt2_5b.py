r"""RT-2 with PaLI-3's proportions: SigLIP ViT-G/14 into a UL2-like encoder-decoder.

    python train.py rt2_5b --text.data FOLDER ... --init.tokenizer UL2 \
        --mesh.data 1 --mesh.fsdp -1 --mesh.distributed auto

4.6 B parameters, 2 B of vision and 3 B of text, for a pod: built and counted here as shapes alone, never trained by
this project. Parameters and optimizer state are split over all devices (`--mesh.fsdp -1`). The rest is as in `rt2`.
"""
import dataclasses

from rtjax.configs import rt2
from rtjax.models import RT2Config
from rtjax.models.backbones.pali import PaLIConfig
from rtjax.models.backbones.siglip import SigLIPConfig
from rtjax.models.backbones.t5 import T5Config

config = dataclasses.replace(rt2.config, model=RT2Config(
    label_smoothing=0.1, dtype='bfloat16', remat=True,
    backbone=PaLIConfig(
        vision=SigLIPConfig(width=1664, layers=48, mlp_width=8192),
        text=T5Config(width=2048, mlp_width=5120, encoder_layers=24, decoder_layers=24, heads=32, activation='silu',
                      tied=True))))
