"""RT-1-X: 15 frames, 81 image tokens, 512 bins, SwiGLU, on the ten public datasets of Open X-Embodiment's recipe.

    python train.py rt1_x                                # reads gs://gresearch/robotics, which anybody may
    python train.py rt1_x --data FOLDER/bridge FOLDER/fractal20220817_data ...
    python train.py rt1_x --init-from rt_1_x_jax --data my_robot --batch-size 64

56.9 M parameters and 15 pictures of 300x300 a window: for a pod, or for fine-tuning the released weights on one GPU.
The mixture's weights, action maps and pictures of 256x320 (aspect kept, the rest black) are those of the public
training notebook, as are its batch of 1024, Adam at a constant 1e-4 without clipping, and padded frames in the loss.
What differs: the labels of world_vector use the range [-2, 2] that the policy acts with (the notebook's use [-1, 1]),
and windows that end in an episode's last step are kept, so that the policy learns to terminate. The last 2 % of each
dataset are held out. The notebook trained 1 M steps, the released weights 900,000.
"""
from rtjax.data.config import DataConfig
from rtjax.models.rt1 import RT1_X
from rtjax.training.config import TrainConfig
from rtjax.training.optimizer import OptimizerConfig

DATASETS = ('fractal20220817_data', 'bridge', 'jaco_play', 'berkeley_cable_routing', 'roboturk', 'taco_play',
            'nyu_door_opening_surprising_effectiveness', 'berkeley_autolab_ur5', 'toto', 'viola')

config = TrainConfig(
    data=tuple(f'gs://gresearch/robotics/{name}' for name in DATASETS),
    steps=1_000_000, batch_size=1024, validate_every=10_000, validation_batches=10, save_every=5000,
    model=RT1_X,
    # The public recipe clips: 0.01 inside the bounds in most maps, at the bounds in the others.
    pipeline=DataConfig(split='train[:98%]', validation_split='train[98%:]', image_size=(256, 320),
                        padding_in_loss=True, allow_clipping=True),
    optimizer=OptimizerConfig(learning_rate=1e-4, end_learning_rate=1e-4, warmup_steps=0, clip_norm=0.0))
