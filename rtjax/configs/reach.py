"""A small network on fabricated episodes: a gripper seen from above goes to the coloured shape that it is told.

    python data/reach/generate.py --out data/built --episodes 1000
    python train.py reach --data data/built/reach/1.0.0

Nothing is downloaded; two CPU cores are enough. What it shows is the whole path from episodes to a policy, not how good
one can be: finding the named shape takes longer than this.
"""
from rtjax import actions
from rtjax.configs.bridge_sample import ENCODER
from rtjax.data.augment import AugmentConfig
from rtjax.data.config import DataConfig
from rtjax.models import RT1Config
from rtjax.training.config import TrainConfig
from rtjax.training.optimizer import OptimizerConfig

config = TrainConfig(
    steps=400, batch_size=32, validate_every=100, validation_batches=10, save_every=100,
    model=RT1Config(action_spec=actions.ARM_7D, image_size=(64, 64), encoder=ENCODER, image_tokens=8, token_width=128,
                    width=256, layers=4, heads=4, head_size=64),
    pipeline=DataConfig(stride=3),
    # A target near the border would be shifted out of the picture.
    augment=AugmentConfig(crop=False),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=50))
