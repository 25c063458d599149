"""RT-2 on PaLI: ViT-L/16 into 12 + 12 layers of T5.

    python train.py rt2 --text.data coco_captions FOLDER ... --init.vision VIT --init.text T5    # stage 1
    python train.py rt2 --data my_robot --text.data coco_captions FOLDER ... --init.weights STAGE_1 --output STAGE_2

731 M parameters: images of 224x224, 7 classifiers of 256 bins. VIT and T5 are folders from Hugging Face, such as those
of google/vit-large-patch16-224-in21k and google/t5-v1_1-large, of which the first 12 layers are loaded; without them
that part starts from random numbers. Stage 2 keeps the tokenizer of stage 1. `--model.action-head text` generates
actions as text. `--init.trainable decoder`, or `--init.trainable lora --model.lora.rank 16` trains fewer parameters,
in less memory (docs/guides/rt2.md). For accelerators.
"""
from rtjax.data.augment import AugmentConfig
from rtjax.models import RT2Config
from rtjax.training.config import TextConfig, TrainConfig, ValidationConfig, VisionLanguageInit
from rtjax.training.optimizer import OptimizerConfig

config = TrainConfig(
    steps=80_000, batch_size=256, validation=ValidationConfig(batches=50), init=VisionLanguageInit(),
    text=TextConfig(batch_size=256),
    model=RT2Config(label_smoothing=0.1, dtype='bfloat16', remat=True),
    augment=AugmentConfig(crop=False),
    optimizer=OptimizerConfig(kind='adafactor', learning_rate=1e-4, warmup_steps=2000))
