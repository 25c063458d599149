"""A small RT-1 for the five families of Language-Table.

    git clone https://github.com/google-research/language-table
    python data/language_table/generate.py --out data/built --path language-table --episodes 4000
    python train.py rt1_language_table --data data/built/language_table_demonstrations/1.0.0
    python eval.py checkpoints/rt1_language_table --env language_table --path language-table --episodes 250

Recording takes 5 to 8 s of a CPU core per episode. Trained so far only to test that it runs; no success rate was
measured (docs/results/language_table.md). `bench/language_table_gpu.py` records and trains on one GPU machine without
TensorFlow. The additions to the paper's recipe are those of `rt1_tabletop`, without mirrored examples, since
instructions say 'left' and 'right'.
"""
from rtjax import actions
from rtjax.data.augment import AugmentConfig
from rtjax.data.config import DataConfig
from rtjax.language.instructions import HASHED_NGRAMS
from rtjax.models import RT1Config
from rtjax.models.auxiliary.config import AuxiliaryConfig
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig, Stage
from rtjax.training.config import CheckpointConfig, DistillationConfig, LoggingConfig, TrainConfig, ValidationConfig
from rtjax.training.optimizer import OptimizerConfig

ENCODER = EfficientNetConfig(width=0.5, depth=1.0, head=128, drop_connect=0.0, momentum=0.99, stages=(
    Stage(3, 1, 64, 1, 2, dense=True), Stage(3, 4, 96, 1, 1, dense=True)))

config = TrainConfig(
    steps=12000, batch_size=32, validation=ValidationConfig(every=1000, batches=40),
    checkpoints=CheckpointConfig(every=500), logging=LoggingConfig(every=50), distillation=DistillationConfig(),
    model=RT1Config(
        action_spec=actions.LANGUAGE_TABLE, window=1, image_size=(90, 160), encoder=ENCODER, image_tokens=8,
        proprioception_size=2, token_width=64, width=128, layers=3, heads=4, head_size=32, feed_forward='swiglu',
        dropout=0.0, normalize_instruction=True, bin_smoothing=2.0, decoding='mean',
        auxiliary=AuxiliaryConfig(language_tokens=4, waypoint_weight=10.0)),
    pipeline=DataConfig(waypoints=True, proprioception=True, encoder=HASHED_NGRAMS),
    augment=AugmentConfig(crop=False),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=100, weight_decay=0.01, ema_decay=0.998))
