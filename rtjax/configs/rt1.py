"""The official RT-1: FiLM-EfficientNet-B3, 6 frames, 8 layers.

    python train.py rt1 --data fractal20220817_data

35.3 M parameters on 300x300 images, 11 action tokens. Batch 256, Adam, warm-up, cosine decay from 1e-4, the official
random shift of the images, drawn for each example. For eight TPU v5e: 13.4 of 16.9 GB a chip, computed in bfloat16 with
parameters, statistics and loss in float32. All in float32, as in the official code (`--model.dtype float32`), takes 23
GB (docs/results/scale.md; `--compile-only v5e:2x4` for other settings). `--grad-accum-steps 16` computes a batch in 16
parts; only BatchNorm's statistics change. `--init.weights imagenet` starts the image encoder from ImageNet weights, as
the official code does. In float32 a step of 2 windows takes seconds on two CPU cores.
"""
from rtjax.models import RT1Config
from rtjax.training.config import DistillationConfig, TrainConfig, ValidationConfig

config = TrainConfig(validation=ValidationConfig(batches=50), distillation=DistillationConfig(),
                     model=RT1Config(dtype='bfloat16'))
