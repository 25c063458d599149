"""A small RT-1 on one suite of LIBERO, from scripted demonstrations.

    MUJOCO_GL=egl python data/libero/generate.py --out data/built/object --suite object --episodes 500
    python train.py rt1_libero --data data/built/object/libero_scripted/1.0.0
    MUJOCO_GL=egl python eval.py checkpoints/rt1_libero --env libero/object --split seen --cameras both --execute 4

The cameras over the table and at the wrist lie side by side in one image of 96x192. The network of `rt1_tabletop`
predicts eight actions, 0.4 s, of which four are executed. With 300 demonstrations and 6,000 steps, 95 minutes on two
CPU cores, it succeeds in 90 of 100 episodes of object (docs/results/libero.md).
"""
import dataclasses

from rtjax import actions
from rtjax.configs.rt1_tabletop import MODEL
from rtjax.configs.rt1_tabletop import config as tabletop
from rtjax.data.augment import AugmentConfig
from rtjax.language.instructions import HASHED_NGRAMS

config = dataclasses.replace(
    tabletop, steps=20_000,
    model=dataclasses.replace(
        MODEL, action_spec=actions.LIBERO, horizon=8, image_size=(96, 192), proprioception_size=8),
    # LIBERO's public datasets have no instruction vectors.
    pipeline=dataclasses.replace(tabletop.pipeline, encoder=HASHED_NGRAMS),
    # Mirrored cameras would swap sides, and instructions say left and right.
    augment=AugmentConfig(crop=False, brightness=0.1, contrast=0.1))
