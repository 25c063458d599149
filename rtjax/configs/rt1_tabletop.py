"""A small RT-1 that learns to pick up the named object in the embedded simulator, on CPU cores alone.

    python data/tabletop/generate.py --out data/built/pick --episodes 3000 --skills pick --no-wrist
    python train.py rt1_tabletop --data data/built/pick/tabletop/1.0.0
    python eval.py checkpoints/rt1_tabletop --env tabletop --split seen --skills pick --baseline untrained blind

On two cores 5 minutes to record, 17 to train (about 220 frames a second), 4 to judge with both baselines: picks up 79
of 100 seen objects (70 to 86 %), blind 11, untrained 0. After 5,000 steps the loss on held-out episodes hardly falls
any more.

What is added to the paper's recipe: docs/tabletop.md.
"""
from rtjax import actions
from rtjax.data.augment import AugmentConfig
from rtjax.data.config import DataConfig
from rtjax.models import RT1Config
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig, Stage
from rtjax.training.config import TrainConfig
from rtjax.training.optimizer import OptimizerConfig

ENCODER = EfficientNetConfig(width=0.5, depth=1.0, head=128, drop_connect=0.0, momentum=0.99, stages=(
    Stage(3, 1, 64, 1, 2, dense=True), Stage(3, 3, 64, 1, 1, dense=True)))

config = TrainConfig(
    steps=6500, batch_size=32, validate_every=1000, validation_batches=40, save_every=500, log_every=50,
    model=RT1Config(
        action_spec=actions.ARM_7D, window=1, image_size=(96, 96), encoder=ENCODER, image_tokens=8, queried_tokens=4,
        proprioception_size=7, token_width=64, width=128, layers=2, heads=4, head_size=32, feed_forward='swiglu',
        dropout=0.0, standardize_embeddings=True, waypoint_weight=10.0, smoothing=3.0, decoding='mean'),
    pipeline=DataConfig(waypoints=True, proprioception=True),
    augment=AugmentConfig(crop=False, flip=True, flip_proprioception=(1, -1, 1, -1, 1, -1, 1)),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=100, weight_decay=0.01, ema_decay=0.998))
