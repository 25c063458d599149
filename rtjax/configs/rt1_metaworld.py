"""A small RT-1 that learns several tasks of Meta-World.

    python data/metaworld/generate.py --out data/built/mt10 --tasks mt10
    python train.py rt1_metaworld --data data/built/mt10/metaworld/1.0.0
    python eval.py checkpoints/rt1_metaworld --env metaworld/mt10 --baseline untrained blind

The network of `rt1_tabletop` without mirrored examples: the camera does not look along the table. It acts at
Meta-World's 80 Hz, one action at a time. After 6,000 of its steps it succeeds in 64 of 100 episodes of MT10
(docs/results/metaworld.md).
"""
import dataclasses

from rtjax import actions
from rtjax.configs.rt1_tabletop import MODEL
from rtjax.configs.rt1_tabletop import config as tabletop
from rtjax.data.augment import AugmentConfig
from rtjax.training.config import ValidationConfig

config = dataclasses.replace(
    tabletop, steps=20_000, validation=ValidationConfig(every=2000, batches=40),
    model=dataclasses.replace(MODEL, action_spec=actions.METAWORLD, proprioception_size=4),
    augment=AugmentConfig(crop=False, brightness=0.1, contrast=0.1))
