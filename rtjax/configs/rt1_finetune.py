"""A few demonstrations of your own robot: start from trained weights, on 7 numbers of an arm.

    python train.py rt1_finetune --init-from WEIGHTS --data FOLDER

WEIGHTS is a run of this package or a released RT-1. What fits is taken over; what was loaded, what is new and what was
left out is printed. A quarter of the learning rate of `rt1`, a short warm-up, small batches, an average of the
parameters, and some colour on top of the random shift: a few episodes are quickly learned by heart.
"""
from rtjax import actions
from rtjax.data.augment import AugmentConfig
from rtjax.models import RT1Config
from rtjax.training.config import TrainConfig
from rtjax.training.optimizer import OptimizerConfig

config = TrainConfig(
    steps=2000, batch_size=32, validate_every=200, save_every=200,
    model=RT1Config(action_spec=actions.ARM_7D),
    augment=AugmentConfig(brightness=0.2, contrast=0.2, saturation=0.2),
    optimizer=OptimizerConfig(learning_rate=2.5e-5, warmup_steps=100, weight_decay=0.01, ema_decay=0.999))
