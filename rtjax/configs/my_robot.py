"""A small RT-1 for your own arm, in minutes on a laptop.

    python -m rtjax.data.convert LOGS --name mug --bounds quantiles
    python train.py my_robot --data data/built/mug/1.0.0

The actions and their bounds are those that the converter stored with the data. docs/guides/your_robot.md leads from the
logs to the robot. Images of any size are resized to 96x96 by the network; three frames, batches of 32. The 1000 steps
took 14 minutes on two CPU cores shared with other programs, start, five validations and checkpoints included. With few
episodes (54 there) the loss on those held out is lowest early: the command names that checkpoint at its end.
"""
from rtjax import actions
from rtjax.configs.bridge_sample import ENCODER
from rtjax.data.augment import AugmentConfig
from rtjax.models import RT1Config
from rtjax.training.config import CheckpointConfig, DistillationConfig, TrainConfig, ValidationConfig
from rtjax.training.optimizer import OptimizerConfig

config = TrainConfig(
    steps=1000, batch_size=32, validation=ValidationConfig(every=200), checkpoints=CheckpointConfig(every=200),
    distillation=DistillationConfig(),
    model=RT1Config(action_spec=actions.ARM_7D, window=3, image_size=(96, 96), encoder=ENCODER, image_tokens=8,
                    token_width=128, width=128, layers=4, heads=4, head_size=32),
    augment=AugmentConfig(brightness=0.2, contrast=0.2, saturation=0.2),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=50, ema_decay=0.998))
