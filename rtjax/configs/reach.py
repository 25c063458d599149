"""A small network on fabricated episodes of reaching for a named shape.

    python data/reach/generate.py --out data/built --episodes 1000
    python train.py reach --data data/built/reach/1.0.0

A gripper seen from above moves to the coloured shape of the instruction. Nothing is downloaded; minutes on two CPU
cores. It shows the complete path from episodes to a policy, not a good one: finding the named shape takes longer.
"""
from rtjax import actions
from rtjax.configs.bridge_sample import ENCODER
from rtjax.data.augment import AugmentConfig
from rtjax.data.config import DataConfig
from rtjax.models import RT1Config
from rtjax.training.config import CheckpointConfig, DistillationConfig, TrainConfig, ValidationConfig
from rtjax.training.optimizer import OptimizerConfig

config = TrainConfig(
    steps=400, batch_size=32, validation=ValidationConfig(every=100, batches=10),
    checkpoints=CheckpointConfig(every=100), distillation=DistillationConfig(),
    model=RT1Config(action_spec=actions.ARM_7D, image_size=(64, 64), encoder=ENCODER, image_tokens=8, token_width=128,
                    width=256, layers=4, heads=4, head_size=64),
    pipeline=DataConfig(stride=3),
    # A target near the border would be shifted out of the image.
    augment=AugmentConfig(crop=False),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=50))
