"""A small network that memorises 25 real robot episodes in minutes.

    python train.py bridge_sample --data FOLDER/bridge_dataset/1.0.0

FOLDER is a copy of the debugging sample of octo-models/octo (tests/debug_dataset): 25 episodes of 10 steps of Bridge
V2, in 64x64. Its `train` and `val` are the same episodes, so this shows that the machinery learns, not that the
network generalises. Two CPU cores take 2 minutes; 300 steps bring the training token accuracy above 90 %. Without
augmentation and dropout, which would hinder memorising.
"""
from rtjax import actions
from rtjax.data.augment import AugmentConfig
from rtjax.data.config import DataConfig
from rtjax.models import RT1Config
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig, Stage
from rtjax.training.config import CheckpointConfig, DistillationConfig, TrainConfig, ValidationConfig
from rtjax.training.optimizer import OptimizerConfig

ENCODER = EfficientNetConfig(width=1.0, depth=1.0, drop_connect=0.0, momentum=0.9, stages=(
    Stage(3, 1, 16, 1, 2), Stage(3, 1, 24, 4, 2), Stage(3, 2, 48, 4, 2)))

config = TrainConfig(
    steps=300, batch_size=24, validation=ValidationConfig(every=100), checkpoints=CheckpointConfig(every=100),
    distillation=DistillationConfig(),
    model=RT1Config(action_spec=actions.ARM_7D, image_size=(64, 64), encoder=ENCODER, image_tokens=8, token_width=128,
                    width=256, layers=4, heads=4, head_size=64, dropout=0.0),
    pipeline=DataConfig(shuffle_episodes=25),
    augment=AugmentConfig(crop=False),
    optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=30))
