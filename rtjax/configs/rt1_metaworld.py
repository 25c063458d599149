"""A small RT-1 that learns several tasks of Meta-World.

    python data/metaworld/generate.py --out data/built/mt10 --tasks mt10
    python train.py rt1_metaworld --data data/built/mt10/metaworld/1.0.0
    python eval.py checkpoints/rt1_metaworld --env metaworld/mt10 --baseline untrained blind

The network of `rt1_tabletop` without mirrored examples: the camera does not look along the table. It acts at
Meta-World's 80 Hz, one action at a time. After 6,000 of its steps it succeeds in 64 of 100 episodes of MT10
(docs/results/metaworld.md).
"""
from rtjax import actions
from rtjax.configs.rt1_tabletop import ENCODER
from rtjax.data.augment import AugmentConfig
from rtjax.data.config import DataConfig
from rtjax.models import RT1Config
from rtjax.models.auxiliary.config import AuxiliaryConfig
from rtjax.training.config import CheckpointConfig, DistillationConfig, LoggingConfig, TrainConfig, ValidationConfig
from rtjax.training.optimizer import OptimizerConfig

config = TrainConfig(
    steps=20_000, batch_size=32, validation=ValidationConfig(every=2000, batches=40),
    checkpoints=CheckpointConfig(every=500), logging=LoggingConfig(every=50), distillation=DistillationConfig(),
    model=RT1Config(
        action_spec=actions.METAWORLD, window=1, image_size=(96, 96), encoder=ENCODER, image_tokens=8,
        proprioception_size=4, token_width=64, width=128, layers=2, heads=4, head_size=32, feed_forward='swiglu',
        dropout=0.0, normalize_instruction=True, bin_smoothing=3.0, decoding='mean',
        auxiliary=AuxiliaryConfig(language_tokens=4, waypoint_weight=10.0)),
    pipeline=DataConfig(waypoints=True, proprioception=True),
    augment=AugmentConfig(crop=False, brightness=0.1, contrast=0.1),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=100, weight_decay=0.01, ema_decay=0.998))
