r"""RT-1 with six cameras, the robot state and absolute gripper poses.

    python train.py rt1_multiview --data FOLDER --pipeline.views image wrist left right top shoulder
    python train.py rt1_multiview --data FOLDER --model.views 1 --model.window 6    # six frames of one camera

In the embedded simulator, with its cameras and the action `arm7d`:

    python data/tabletop/generate.py --out data/built --episodes 1000 --multiview
    python train.py rt1_multiview --data data/built/tabletop/1.0.0 --model.action-spec arm7d \
        --pipeline.views image wrist left right top shoulder
    python eval.py checkpoints/rt1_multiview --env tabletop --multiview

45.4 M parameters: 488 tokens, an encoder, TokenLearner, a decoder. A dataset has six images per step, the robot state
(7 numbers, or set `--model.proprioception-size`) and actions as `pose7d`: x y z in metres, roll pitch yaw in radians,
and the gripper's class, one-hot. The state is normalised with the statistics of the data, which are kept with the
weights. The recipe is that of `rt1`, whose 256 windows are as many images. `--init.weights` loads the image encoder of
ImageNet, of a run of `rt1` or of a released RT-1. For sixteen TPU v5e: half the images a chip that `rt1` has on eight,
but 488 tokens of each window. On two CPU cores a step takes two minutes to compile, then, in float32, 2.5 s and 5 GiB
at a batch of 1.
"""
from rtjax.data.config import DataConfig
from rtjax.models import RT1MultiviewConfig
from rtjax.training.config import TrainConfig, ValidationConfig

config = TrainConfig(validation=ValidationConfig(batches=50), model=RT1MultiviewConfig(dtype='bfloat16'),
                     pipeline=DataConfig(proprioception=True))
