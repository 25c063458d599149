r"""RT-2 on T5Gemma 2 270m-270m, an encoder-decoder.

    python train.py rt2_t5gemma2 --data my_robot --text.data FOLDER ... --init.backbone t5gemma-2-270m-270m

0.8 B parameters, half of them SigLIP's: images of 896x896 become 256 tokens. Actions are text, in the rarest tokens
of the vocabulary. The folder is google/t5gemma-2-270m-270m from Hugging Face, or its sizes 1b-1b and 4b-4b: its
config.json sets the network. For accelerators: never trained at full size by this project. docs/guides/rt2.md compares
the backbones.
"""
import dataclasses

from rtjax.configs import rt2_paligemma
from rtjax.models import RT2Config
from rtjax.models.backbones.t5gemma2 import T5Gemma2Config

config = dataclasses.replace(
    rt2_paligemma.config,
    model=RT2Config(backbone=T5Gemma2Config(), action_head='text', action_vocabulary='rarest', dtype='bfloat16',
                    remat=True))
