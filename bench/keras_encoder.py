"""Times keras.applications.EfficientNetB3 (TensorFlow), forward and backward on batch statistics: a yardstick.

  python bench/keras_encoder.py [--pictures 12] [--steps 6]

Prints one line of JSON. Twelve pictures are what one training step of the full RT-1 encodes at batch 2: Keras's encoder
alone, without FiLM, transformer and optimizer, beside `bench/train_step.py` in the same minutes.
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


def main(pictures: int = 12, steps: int = 6) -> None:
  tf.config.set_visible_devices([], 'GPU')
  network = keras.applications.EfficientNetB3(include_top=False, weights=None, input_shape=(None, None, 3))
  images = tf.constant(np.random.default_rng(0).uniform(0, 255, (pictures, 300, 300, 3)).astype(np.float32))

  @tf.function
  def step():
    with tf.GradientTape() as tape:
      loss = tf.reduce_mean(tf.square(network(images, training=True)))
    return loss, tape.gradient(loss, network.trainable_variables)

  times = []
  for _ in range(steps + 1):
    start = time.perf_counter()
    loss, _ = step()
    loss.numpy()
    times.append(time.perf_counter() - start)
  print(json.dumps({
      'benchmark': 'keras_encoder', 'pictures': pictures, 'median_s': round(float(np.median(times[1:])), 4),
      'min_s': round(min(times[1:]), 4), 'first_call_s': round(times[0], 1), 'tensorflow': tf.__version__,
      **describe()}))


if __name__ == '__main__':
  tyro.cli(main)
