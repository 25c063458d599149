"""Attention of RT-2 when asked to point, drawn over held-out images.

  python bench/pointing.py checkpoints/rt2_stage1 data/built/tabletop_qa/1.0.0 docs/images/rt2_pointing.jpg

Each panel is lit by the weights of the first language token over the feature map. White: the correct cell.
"""
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont

import rtjax
from rtjax.data.config import ImageTextConfig, TaskWeights
from rtjax.data.image_text import stream
from rtjax.models import RT2

_SCALE, _LINE = 3, 28  # screen pixels of an image's pixel, and of a line of text
_DARK = 0.45  # brightness where there is no attention


def attention(model: RT2, images: np.ndarray, prompts: np.ndarray) -> np.ndarray:
  """Return the first language token's attention weights, float32 [B, H, W]."""
  encoded = model.encode_images(jnp.asarray(images)[:, None])
  scores = model.encode(encoded, jnp.asarray(prompts)).scores
  if encoded.feature_map is None or scores is None:
    raise ValueError('this model has no language tokens: expected an RT-2 trained with '
                     '--model.auxiliary.language-tokens 4, for example.')
  return np.asarray(jax.nn.softmax(scores[:, 0])).reshape(encoded.feature_map.shape[:3])


def panel(image: np.ndarray, weights: np.ndarray, point: np.ndarray, grid: int, text: str) -> Image.Image:
  """Draw the image, lit by its attention, above the prompt."""
  height, width = (_SCALE * side for side in image.shape[:2])
  enlarged = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC), np.float32)
  light = np.asarray(Image.fromarray(weights / weights.max()).resize((width, height), Image.Resampling.BILINEAR))
  lit = enlarged * (_DARK + (1 - _DARK) * np.sqrt(light))[..., None]
  out = Image.new('RGB', (width, height + _LINE), 'white')
  out.paste(Image.fromarray(lit.astype(np.uint8)))
  draw, (left, top) = ImageDraw.Draw(out), point / grid * (width, height)
  draw.rectangle((left, top, left + width / grid, top + height / grid), outline='white', width=2)
  draw.text((4, height + 4), text, 'black', ImageFont.load_default(17))
  return out


def main(checkpoint: tyro.conf.Positional[str], source: tyro.conf.Positional[str], out: tyro.conf.Positional[str],
         images: int = 6, columns: int = 4) -> None:
  """Draw the panels.

  Args:
    checkpoint: an RT-2 with language tokens.
    source: images with objects to point at, and the grid of the answers; its split `val` is drawn.
    out: the file to write.
    images: number of images, with two objects each.
    columns: panels of a row.
  """
  model = rtjax.load_model(checkpoint)
  if not isinstance(model, RT2) or model.tokenizer is None:
    raise ValueError(f'{checkpoint} is no RT-2 with a tokenizer.')
  c = model.config
  shapes = stream.TextShapes(c.image_size, c.prompt_length, c.answer_length, c.prompt_format)
  batch = next(stream.validation_batches(
      [source], ImageTextConfig(tasks=TaskWeights(0, 0, 0, 1)), model.tokenizer, shapes, batch_size=256))
  count = int(np.sum(batch['tasks'] >= 0))
  pairs = [list(rows)[:2] for _, rows in itertools.groupby(range(count), lambda row: batch['images'][row].tobytes())]
  rows = [row for pair in [pair for pair in pairs if len(pair) == 2][:images] for row in pair]
  if not rows:
    raise ValueError(f'{source}: no two of its first {count} objects to point at are in one image.')
  if not batch['grid'][rows].all():
    raise ValueError(f'{source}: the grid of its pointing answers is unknown; add the entry `grid`.')
  weights = attention(model, batch['images'][rows], batch['prompts'][rows])
  panels = [panel(batch['images'][row], one, batch['points'][row], int(batch['grid'][row]), batch['prompt_texts'][row])
            for row, one in zip(rows, weights, strict=True)]
  width, height = panels[0].size
  sheet = Image.new('RGB', (columns * width, math.ceil(len(panels) / columns) * height), 'white')
  for number, one in enumerate(panels):
    sheet.paste(one, (number % columns * width, number // columns * height))
  sheet.save(out, quality=88)


if __name__ == '__main__':
  tyro.cli(main)
