"""RT-2, PaLI-style: ViT-L/16 at 224x224 into a T5 encoder-decoder of 12 + 12 layers, 7 heads of 256 bins.

    python train.py rt2 --image-text coco_captions FOLDER ... --vision-from VIT --text-from T5    # stage 1
    python train.py rt2 --data my_robot --image-text coco_captions FOLDER ... --init-from STAGE_1 --output STAGE_2

731 M parameters. VIT and T5 are folders from Hugging Face, such as those of google/vit-large-patch16-224-in21k and
google/t5-v1_1-large, of which the first 12 layers are taken; without them that part starts from random numbers. Stage 2
keeps the vocabulary of stage 1. `--model.act text` says actions as text. `--trainable decoder`, or
`--trainable lora --model.lora.rank 16` trains less, in less memory (docs/rt2.md). For accelerators.
"""
from rtjax.data.augment import AugmentConfig
from rtjax.models import RT2Config
from rtjax.training.config import TrainConfig
from rtjax.training.optimizer import OptimizerConfig

config = TrainConfig(
    steps=80_000, batch_size=256, image_text_batch_size=256, validation_batches=50,
    model=RT2Config(label_smoothing=0.1, dtype='bfloat16', remat=True),
    augment=AugmentConfig(crop=False),
    optimizer=OptimizerConfig(kind='adafactor', learning_rate=1e-4, warmup_steps=2000))
