r"""A small RT-2 for two CPU cores and the embedded simulator.

    python data/tabletop_qa/generate.py --out data/built --images 5000
    python data/tabletop/generate.py --out data/built/pick --episodes 3000 --skills pick --no-wrist
    python train.py rt2_tabletop --text.data data/built/tabletop_qa/1.0.0 --output checkpoints/rt2_stage1
    python train.py rt2_tabletop --data data/built/pick/tabletop/1.0.0 --text.data data/built/tabletop_qa/1.0.0 \
        --init.weights checkpoints/rt2_stage1 --output checkpoints/rt2_stage2

36 image tokens, 4 language tokens, a T5 of 2 + 2 layers. The first command of train.py is stage 1, questions and
captions alone; the second is stage 2, robot episodes beside them. Both validate the answers that the network
generates, so that learning and forgetting show as curves. Results and times are in docs/results/rt2.md.
"""
from rtjax.data.augment import AugmentConfig
from rtjax.data.config import DataConfig, ImageTextConfig, TaskWeights
from rtjax.models import RT2Config
from rtjax.models.auxiliary.config import GroundingConfig
from rtjax.models.backbones.conv_stem import ConvStemConfig
from rtjax.models.backbones.pali import PaLIConfig
from rtjax.models.backbones.t5 import T5Config
from rtjax.models.backbones.vit import ViTConfig
from rtjax.training.config import (
    CheckpointConfig,
    LoggingConfig,
    TextConfig,
    TrainConfig,
    ValidationConfig,
    VisionLanguageInit,
)
from rtjax.training.optimizer import OptimizerConfig

config = TrainConfig(
    steps=16000, batch_size=24, validation=ValidationConfig(every=1000, batches=20),
    checkpoints=CheckpointConfig(every=500), logging=LoggingConfig(every=50), init=VisionLanguageInit(),
    text=TextConfig(batch_size=8, pipeline=ImageTextConfig(
        tasks=TaskWeights(caption=2.0, vqa=2.0, match=0.5, point=2.0))),
    model=RT2Config(
        prompt_length=32, answer_length=24, proprioception_size=7, bin_smoothing=3.0, decoding='mean',
        backbone=PaLIConfig(
            vision=ViTConfig(image_size=(96, 96), patch=16, width=128, layers=2, heads=4, mlp_width=256,
                             class_token=False, epsilon=1e-6),
            text=T5Config(vocab_size=1536, width=128, head_size=32, mlp_width=256, encoder_layers=2, decoder_layers=2,
                          heads=4, dropout=0.0)),
        auxiliary=GroundingConfig(language_tokens=4, waypoint_weight=10.0, pointing_weight=3.0,
                                  stem=ConvStemConfig(patch=4, blocks=2))),
    pipeline=DataConfig(waypoints=True, proprioception=True),
    augment=AugmentConfig(crop=False, flip=True, flip_proprioception=(1, -1, 1, -1, 1, -1, 1)),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=200, weight_decay=0.01, ema_decay=0.998))
