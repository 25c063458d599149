"""A small RT-1 on one suite of LIBERO, from scripted demonstrations.

    MUJOCO_GL=egl python data/libero/generate.py --out data/built/object --suite object --episodes 500
    python train.py rt1_libero --data data/built/object/libero_scripted/1.0.0
    MUJOCO_GL=egl python eval.py checkpoints/rt1_libero --env libero/object --split seen --cameras both --execute 4

The cameras over the table and at the wrist lie side by side in one image of 96x192. It predicts eight actions, 0.4 s,
of which four are executed. Neither times nor success rates have been measured yet.
"""
from rtjax import actions
from rtjax.configs.rt1_tabletop import ENCODER
from rtjax.data.augment import AugmentConfig
from rtjax.data.config import DataConfig
from rtjax.language.instructions import HASHED_NGRAMS
from rtjax.models import RT1Config
from rtjax.models.auxiliary.config import AuxiliaryConfig
from rtjax.training.config import CheckpointConfig, DistillationConfig, LoggingConfig, TrainConfig, ValidationConfig
from rtjax.training.optimizer import OptimizerConfig

config = TrainConfig(
    steps=20_000, batch_size=32, validation=ValidationConfig(every=1000, batches=40),
    checkpoints=CheckpointConfig(every=500), logging=LoggingConfig(every=50), distillation=DistillationConfig(),
    model=RT1Config(
        action_spec=actions.LIBERO, window=1, horizon=8, image_size=(96, 192), encoder=ENCODER, image_tokens=8,
        proprioception_size=8, token_width=64, width=128, layers=2, heads=4, head_size=32, feed_forward='swiglu',
        dropout=0.0, normalize_instruction=True, bin_smoothing=3.0, decoding='mean',
        auxiliary=AuxiliaryConfig(language_tokens=4, waypoint_weight=10.0)),
    # LIBERO's public datasets have no instruction vectors.
    pipeline=DataConfig(waypoints=True, proprioception=True, encoder=HASHED_NGRAMS),
    # Mirrored cameras would swap sides, and instructions say left and right.
    augment=AugmentConfig(crop=False, brightness=0.1, contrast=0.1),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=100, weight_decay=0.01, ema_decay=0.998))
