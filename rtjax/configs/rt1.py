"""The official RT-1: FiLM-EfficientNet-B3 on 300x300 pictures, 6 frames, 8 layers, 11 action tokens.

    python train.py rt1 --data fractal20220817_data

35.3 M parameters. Batch 256, Adam, warm-up, cosine decay from 1e-4, the official random shift of the pictures, each
example its own. Where 256 windows are too many for the devices' memory, `--micro-batches 16` computes them in 16 parts;
only BatchNorm's statistics notice. `--init-from imagenet` starts the image encoder from ImageNet weights, as the
official code does. For accelerators; two CPU cores take seconds for a step of 2 windows.
"""
from rtjax.training.config import TrainConfig

config = TrainConfig(validation_batches=50)
