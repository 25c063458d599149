"""RT-2 small enough for two CPU cores and the embedded simulator: 36 visual tokens, 4 asked for, a T5 of 2 + 2 layers.

    python data/tabletop_qa/generate.py --out data/built --pictures 5000
    python data/tabletop/generate.py --out data/built/pick --episodes 3000 --skills pick --no-wrist
    python train.py rt2_tabletop --image-text data/built/tabletop_qa/1.0.0 --output checkpoints/rt2_stage1
    python train.py rt2_tabletop --data data/built/pick/tabletop/1.0.0 --image-text data/built/tabletop_qa/1.0.0 \
        --init-from checkpoints/rt2_stage1 --output checkpoints/rt2_stage2

The first command of train.py is stage 1, questions and captions alone; the second is stage 2, robots beside them. Each
validates the answers that the network writes, so that what is learned and forgotten is a curve. What came of it, and in
what time: docs/rt2.md.
"""
from rtjax.data.augment import AugmentConfig
from rtjax.data.config import DataConfig, ImageTextConfig, KindWeights
from rtjax.models import RT2Config, T5Config, ViTConfig
from rtjax.training.config import TrainConfig
from rtjax.training.optimizer import OptimizerConfig

config = TrainConfig(
    steps=16000, batch_size=24, image_text_batch_size=8, log_every=50, validate_every=1000, validation_batches=20,
    save_every=500,
    model=RT2Config(
        prompt_length=32, answer_length=24, proprioception_size=7, smoothing=3.0, decoding='mean', queried_tokens=4,
        waypoint_weight=10.0, words_weight=1.0, point_weight=3.0,
        vision=ViTConfig(image_size=(96, 96), patch=16, width=128, layers=2, heads=4, mlp_width=256, class_token=False,
                         epsilon=1e-6, piece=4, mixes=2),
        text=T5Config(vocab_size=1536, width=128, head_size=32, mlp_width=256, encoder_layers=2, decoder_layers=2,
                      heads=4, dropout=0.0)),
    pipeline=DataConfig(waypoints=True, proprioception=True),
    image_text_pipeline=ImageTextConfig(kinds=KindWeights(caption=2.0, vqa=2.0, match=0.5, point=2.0)),
    augment=AugmentConfig(crop=False, flip=True, flip_proprioception=(1, -1, 1, -1, 1, -1, 1)),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=200, weight_decay=0.01, ema_decay=0.998))
