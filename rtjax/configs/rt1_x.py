"""RT-1-X on the ten public datasets of Open X-Embodiment's recipe.

    python train.py rt1_x                                # reads gs://gresearch/robotics, which is public
    python train.py rt1_x --data FOLDER/bridge FOLDER/fractal20220817_data ...
    python train.py rt1_x --init.weights rt_1_x_jax --data my_robot --batch-size 64 --grad-accum-steps 4

56.9 M parameters: 15 frames of 300x300, 81 image tokens, 512 bins, SwiGLU. For 32 TPU v5p (`--compile-only v5p:2x4x4`):
59.9 of 102.8 GB a chip, computed in bfloat16 (docs/results/scale.md). Fine-tuning the released weights as above has 16
windows in memory at once, half as many as such a chip, about 31 GB: for one GPU of 40 GB, an estimate from the TPU's
figures. The mixture's weights, action maps and images of 256x320 (aspect kept, the rest black) are those of the public
training notebook, as are its batch of 1024, Adam at a constant 1e-4 without clipping, and padded frames in the loss.
Differences: the labels of world_vector use the range [-2, 2] that the policy acts with (the notebook's use [-1, 1]),
windows that end in an episode's last step are kept, so that the policy learns to terminate, and an open gripper is -1
in taco_play and toto, too (`--pipeline.rt1-x-grippers` takes the notebook's 1). The last 2 % of each dataset are held
out. The notebook trained 1 M steps, the released weights 900,000.
"""
import dataclasses

from rtjax.data.config import DataConfig
from rtjax.models import RT1_X
from rtjax.training.config import CheckpointConfig, DistillationConfig, TrainConfig, ValidationConfig
from rtjax.training.optimizer import OptimizerConfig

DATASETS = ('fractal20220817_data', 'bridge', 'jaco_play', 'berkeley_cable_routing', 'roboturk', 'taco_play',
            'nyu_door_opening_surprising_effectiveness', 'berkeley_autolab_ur5', 'toto', 'viola')

config = TrainConfig(
    data=tuple(f'gs://gresearch/robotics/{name}' for name in DATASETS),
    steps=1_000_000, batch_size=1024, validation=ValidationConfig(every=10_000, batches=10),
    checkpoints=CheckpointConfig(every=5000), distillation=DistillationConfig(),
    model=dataclasses.replace(RT1_X, dtype='bfloat16'),
    # The public recipe clips: 0.01 inside the bounds in most maps, at the bounds in the others.
    pipeline=DataConfig(split='train[:98%]', validation_split='train[98%:]', image_size=(256, 320),
                        padding_in_loss=True, allow_clipping=True),
    optimizer=OptimizerConfig(learning_rate=1e-4, end_learning_rate=1e-4, warmup_steps=0, clip_norm=0.0))
