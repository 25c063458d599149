"""Time depthwise convolutions: shifted sums against the grouped convolution of XLA.

  python bench/depthwise.py [--images 12] [--repeats 5]

Prints one line of JSON per shape: milliseconds, forward and both gradients, the best of alternating repeats.
"""
import functools
import json
import time

import jax
import jax.numpy as jnp
import tyro
from machine import describe

from rtjax.models.backbones.film_efficientnet import conv_padding
from rtjax.models.layers import convolution
from rtjax.runtime import compiler

# Height and width, channels, kernel, stride: EfficientNet-B3's at 300 x 300.
SHAPES = [(150, 40, 3, 1), (150, 144, 3, 2), (75, 192, 3, 1), (37, 288, 5, 1), (18, 816, 5, 1), (9, 1392, 5, 1)]


def main(images: int = 12, repeats: int = 5) -> None:
  for size, channels, kernel, stride in SHAPES:
    times = measure(images, size, channels, kernel, stride, repeats)
    print(json.dumps({'benchmark': 'depthwise', 'shape': [images, size, size, channels], 'kernel': kernel,
                      'stride': stride, 'milliseconds': times, **describe()}), flush=True)


def measure(images: int, size: int, channels: int, kernel: int, stride: int, repeats: int) -> dict[str, float]:
  x = jax.random.normal(jax.random.key(0), (images, size, size, channels))
  weights = jax.random.normal(jax.random.key(1), (kernel, kernel, channels))
  padding = (conv_padding(size, kernel, stride, 'official'),) * 2
  variants = {'shifted': convolution.depthwise_conv, 'grouped': convolution._grouped}
  gradient = jnp.ones(jax.eval_shape(functools.partial(variants['grouped'], stride=stride, padding=padding),
                                     x, weights).shape)
  functions = {}
  for name, variant in variants.items():
    def forward(x, w, g, variant=variant):
      return variant(x, w, stride, padding)

    def gradients(x, w, g, variant=variant):
      return jax.vjp(lambda x, w: variant(x, w, stride, padding), x, w)[1](g)
    functions |= {f'{name}_forward': forward, f'{name}_input_gradient': lambda *a, both=gradients: both(*a)[0],
                  f'{name}_kernel_gradient': lambda *a, both=gradients: both(*a)[1]}
  compiled = {name: jax.jit(function, compiler_options=compiler.options()).lower(x, weights, gradient).compile()
              for name, function in functions.items()}
  best = dict.fromkeys(compiled, float('inf'))
  for _ in range(repeats + 1):  # the first repeat touches fresh memory
    for name, function in compiled.items():
      start = time.perf_counter()
      jax.block_until_ready(function(x, weights, gradient))
      best[name] = min(best[name], time.perf_counter() - start)
  return {name: round(seconds * 1e3, 1) for name, seconds in best.items()}


if __name__ == '__main__':
  tyro.cli(main)
