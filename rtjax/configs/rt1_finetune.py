"""RT-1 fine-tuned from trained weights on a few demonstrations.

    python train.py rt1_finetune --init.weights WEIGHTS --data FOLDER

WEIGHTS is a run of this package or a released RT-1; actions are the 7 numbers of an arm. All variables that fit are
loaded; the loaded, new and left out ones are printed. A quarter of the learning rate of `rt1`, a short warm-up, small
batches, a moving average of the parameters, and colour augmentation on top of the random shift, since a few episodes
are quickly memorised. For one TPU v5e: 32 windows in bfloat16, as many as `rt1` has on each of eight. Or for one GPU of
24 GB, an estimate from the TPU's figures.
"""
from rtjax import actions
from rtjax.data.augment import AugmentConfig
from rtjax.models import RT1Config
from rtjax.training.config import CheckpointConfig, DistillationConfig, TrainConfig, ValidationConfig
from rtjax.training.optimizer import OptimizerConfig

config = TrainConfig(
    steps=2000, batch_size=32, validation=ValidationConfig(every=200), checkpoints=CheckpointConfig(every=200),
    distillation=DistillationConfig(),
    model=RT1Config(action_spec=actions.ARM_7D, dtype='bfloat16'),
    augment=AugmentConfig(brightness=0.2, contrast=0.2, saturation=0.2),
    optimizer=OptimizerConfig(learning_rate=2.5e-5, warmup_steps=100, weight_decay=0.01, ema_decay=0.999))
