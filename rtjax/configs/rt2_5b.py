"""RT-2 with PaLI-3's proportions: SigLIP ViT-G/14 of 2 B into an encoder-decoder of 3 B in the manner of UL2.

    python train.py rt2_5b --image-text FOLDER ... --mesh 1 -1 1 --distributed auto --vocabulary UL2

4.6 B parameters, for a pod: built and counted here as shapes alone, never trained by this project. Parameters and
optimizer state are split over all devices (`--mesh 1 -1 1`). The rest is as in `rt2`.
"""
import dataclasses

from rtjax.configs import rt2
from rtjax.models import RT2Config, SigLIPConfig, T5Config

config = dataclasses.replace(rt2.config, model=RT2Config(
    label_smoothing=0.1, dtype='bfloat16', remat=True,
    vision=SigLIPConfig(width=1664, layers=48, mlp_width=8192),
    text=T5Config(width=2048, mlp_width=5120, encoder_layers=24, decoder_layers=24, heads=32, activation='silu',
                  tied=True)))
