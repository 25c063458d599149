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
import dataclasses

from rtjax import actions
from rtjax.configs.rt1_tabletop import MODEL
from rtjax.configs.rt1_tabletop import config as tabletop
from rtjax.data.augment import AugmentConfig
from rtjax.language.instructions import HASHED_NGRAMS
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig, Stage

ENCODER = EfficientNetConfig(width=0.5, depth=1.0, head=128, drop_connect=0.0, momentum=0.99, stages=(
    Stage(3, 1, 64, 1, 2, dense=True), Stage(3, 4, 96, 1, 1, dense=True)))

config = dataclasses.replace(
    tabletop, steps=12000,
    model=dataclasses.replace(
        MODEL, action_spec=actions.LANGUAGE_TABLE, image_size=(90, 160), encoder=ENCODER,
        proprioception_size=2, layers=3, bin_smoothing=2.0),
    pipeline=dataclasses.replace(tabletop.pipeline, encoder=HASHED_NGRAMS), augment=AugmentConfig(crop=False))
