"""Time of keras.applications.EfficientNetB3 (TensorFlow), forward and backward on batch statistics.

  python bench/keras_encoder.py [--images 12] [--steps 6]

Prints one line of JSON. A training step of the full RT-1 at batch 2 encodes twelve images: compare with
`bench/train_step.py`, run at the same time; Keras's encoder has no FiLM, transformer or optimizer.
"""
import json
import os
import time

import numpy as np
import tyro
from machine import describe

os.environ['KERAS_BACKEND'] = 'tensorflow'
import keras
import tensorflow as tf


def main(images: int = 12, steps: int = 6) -> None:
  tf.config.set_visible_devices([], 'GPU')
  network = keras.applications.EfficientNetB3(include_top=False, weights=None, input_shape=(None, None, 3))
  batch = tf.constant(np.random.default_rng(0).uniform(0, 255, (images, 300, 300, 3)).astype(np.float32))

  @tf.function
  def step():
    with tf.GradientTape() as tape:
      loss = tf.reduce_mean(tf.square(network(batch, training=True)))
    return loss, tape.gradient(loss, network.trainable_variables)

  times = []
  for _ in range(steps + 1):
    start = time.perf_counter()
    loss, _ = step()
    loss.numpy()
    times.append(time.perf_counter() - start)
  print(json.dumps({
      'benchmark': 'keras_encoder', 'images': images, 'median_s': round(float(np.median(times[1:])), 4),
      'min_s': round(min(times[1:]), 4), 'first_call_s': round(times[0], 1), 'tensorflow': tf.__version__,
      **describe()}))


if __name__ == '__main__':
  tyro.cli(main)
