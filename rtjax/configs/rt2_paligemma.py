r"""RT-2 on PaliGemma 3B: image, prompt and state, then action tokens.

    python train.py rt2_paligemma --data my_robot --text.data FOLDER ... --init.backbone paligemma-3b-pt-224

2.9 B parameters: images of 224x224, actions generated as text in <loc0000> to <loc0255>. The folder is one of
google/paligemma-3b-pt-224 or google/paligemma2-3b-pt-224 from Hugging Face, or another size of them: its config.json
sets the network. For a pod, or with `--model.lora.rank 16 --init.trainable lora` for one large accelerator: never
trained at full size by this project. docs/guides/rt2.md compares the backbones.
"""
import dataclasses

from rtjax.configs import rt2
from rtjax.models import RT2Config
from rtjax.models.backbones.paligemma import PaliGemmaConfig
from rtjax.training.optimizer import OptimizerConfig

config = dataclasses.replace(
    rt2.config, steps=20_000,
    model=RT2Config(backbone=PaliGemmaConfig(), action_head='text', action_vocabulary='loc', dtype='bfloat16',
                    remat=True),
    optimizer=OptimizerConfig(kind='adafactor', learning_rate=2e-5, warmup_steps=500))
