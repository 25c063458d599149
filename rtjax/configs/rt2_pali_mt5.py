r"""RT-2 on SigLIP So400m and mT5 large, both under Apache 2.0.

    python train.py rt2_pali_mt5 --text.data FOLDER ... --init.vision siglip-so400m-patch14-224 --init.text mt5-large
    python train.py rt2_pali_mt5 --data my_robot --text.data FOLDER ... --init.weights STAGE_1 --output STAGE_2

1.6 B parameters: images of 224x224 become 256 tokens, 7 classifiers of 256 bins. The two parts were never trained
together, hence stage 1. Multilingual instructions. For accelerators: never trained at full size by this project.
docs/guides/rt2.md compares the backbones.
"""
import dataclasses

from rtjax.configs import rt2
from rtjax.models import RT2Config
from rtjax.models.backbones.pali import PaLIConfig
from rtjax.models.backbones.siglip import SigLIPConfig
from rtjax.models.backbones.t5 import T5Config

config = dataclasses.replace(rt2.config, model=RT2Config(
    label_smoothing=0.1, dtype='bfloat16', remat=True,
    backbone=PaLIConfig(vision=SigLIPConfig(),
                        text=T5Config(vocab_size=250112, encoder_layers=24, decoder_layers=24))))
