"""A small RT-1 that learns to pick in the embedded simulator.

    python data/tabletop/generate.py --out data/built/pick --episodes 3000 --skills pick --no-wrist
    python train.py rt1_tabletop --data data/built/pick/tabletop/1.0.0
    python eval.py checkpoints/rt1_tabletop --env tabletop --split seen --skills pick --baseline untrained blind

On two CPU cores 5 minutes to record, 17 to train (about 220 frames a second), 4 to evaluate with both baselines: picks
up 77 of 100 seen objects (68 to 84 %), blind 12, untrained 0. After 5,000 steps the loss on held-out episodes hardly
falls any more. The additions to the paper's recipe are explained in docs/guides/tabletop.md.
"""
from rtjax import actions
from rtjax.data.augment import AugmentConfig
from rtjax.data.config import DataConfig
from rtjax.models import RT1Config
from rtjax.models.auxiliary.config import AuxiliaryConfig
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig, Stage
from rtjax.training.config import CheckpointConfig, DistillationConfig, LoggingConfig, TrainConfig, ValidationConfig
from rtjax.training.optimizer import OptimizerConfig

ENCODER = EfficientNetConfig(width=0.5, depth=1.0, head=128, drop_connect=0.0, momentum=0.99, stages=(
    Stage(3, 1, 64, 1, 2, dense=True), Stage(3, 3, 64, 1, 1, dense=True)))

MODEL = RT1Config(
    action_spec=actions.ARM_7D, window=1, image_size=(96, 96), encoder=ENCODER, image_tokens=8, proprioception_size=7,
    token_width=64, width=128, layers=2, heads=4, head_size=32, feed_forward='swiglu', dropout=0.0,
    normalize_instruction=True, bin_smoothing=3.0, decoding='mean',
    auxiliary=AuxiliaryConfig(language_tokens=4, waypoint_weight=10.0))

config = TrainConfig(
    steps=6500, batch_size=32, validation=ValidationConfig(every=1000, batches=40), model=MODEL,
    checkpoints=CheckpointConfig(every=500), logging=LoggingConfig(every=50), distillation=DistillationConfig(),
    pipeline=DataConfig(waypoints=True, proprioception=True),
    augment=AugmentConfig(crop=False, flip=True, flip_proprioception=(1, -1, 1, -1, 1, -1, 1)),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=100, weight_decay=0.01, ema_decay=0.998))
