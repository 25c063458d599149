"""Where RT-2 looks when asked to point: its first queried token's share of each piece, over held-out pictures.

  python bench/looks.py checkpoints/rt2_stage1 data/built/tabletop_qa/1.0.0 docs/images/rt2_looks.jpg

White: the cell that is right.
"""
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont

import rtjax
from rtjax.data.config import ImageTextConfig, KindWeights
from rtjax.data.image_text import stream
from rtjax.models import RT2

_SCALE, _LINE = 3, 28  # screen pixels of a picture's, and of a line of text
_DARK = 0.45  # what is left of the light where it does not look


def shares(model: RT2, images: np.ndarray, prompts: np.ndarray) -> np.ndarray:
  """float32 [B, h, w], each summing to 1."""
  seen = model.see(jnp.asarray(images)[:, None])
  scores = model.context(seen, None, jnp.asarray(prompts)).scores
  return np.asarray(jax.nn.softmax(scores[:, 0])).reshape(len(images), *seen.pieces.shape[1:3])


def panel(image: np.ndarray, share: np.ndarray, point: np.ndarray, cells: int, text: str) -> Image.Image:
  """The picture, lit where it is looked at, and the prompt below."""
  height, width = (_SCALE * side for side in image.shape[:2])
  picture = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC), np.float32)
  light = np.asarray(Image.fromarray(share / share.max()).resize((width, height), Image.Resampling.BILINEAR))
  lit = picture * (_DARK + (1 - _DARK) * np.sqrt(light))[..., None]
  out = Image.new('RGB', (width, height + _LINE), 'white')
  out.paste(Image.fromarray(lit.astype(np.uint8)))
  draw, (left, top) = ImageDraw.Draw(out), point / cells * (width, height)
  draw.rectangle((left, top, left + width / cells, top + height / cells), outline='white', width=2)
  draw.text((4, height + 4), text, 'black', ImageFont.load_default(17))
  return out


def main(checkpoint: tyro.conf.Positional[str], source: tyro.conf.Positional[str], out: tyro.conf.Positional[str],
         pictures: int = 6, columns: int = 4) -> None:
  """Draws the panels.

  Args:
    checkpoint: an RT-2 with queried tokens.
    source: pictures with things to point at; its split `val` is drawn.
    out: the picture to write.
    pictures: how many, of each of which two things are pointed at.
    columns: panels of a row.
  """
  model = rtjax.load_model(checkpoint)
  if not isinstance(model, RT2) or model.queried is None:
    raise ValueError(f'{checkpoint} asks for no tokens: expected an RT-2 trained with --model.queried-tokens 4, say.')
  shapes = stream.Shapes(model.config.image_size, model.config.prompt_length, model.config.answer_length)
  batch = next(stream.validation_batches(
      [source], ImageTextConfig(kinds=KindWeights(0, 0, 0, 1)), model.vocabulary, shapes, batch_size=256))
  count = int(np.sum(batch['kinds'] >= 0))
  pairs = [list(rows)[:2] for _, rows in itertools.groupby(range(count), lambda row: batch['images'][row].tobytes())]
  rows = [row for pair in [pair for pair in pairs if len(pair) == 2][:pictures] for row in pair]
  if not rows:
    raise ValueError(f'{source}: among the first {count} things to point at no two are in one picture.')
  looked = shares(model, batch['images'][rows], batch['prompts'][rows])
  panels = [panel(batch['images'][row], share, batch['points'][row], model.config.point_cells,
                  batch['prompt_texts'][row]) for row, share in zip(rows, looked, strict=True)]
  width, height = panels[0].size
  sheet = Image.new('RGB', (columns * width, math.ceil(len(panels) / columns) * height), 'white')
  for number, one in enumerate(panels):
    sheet.paste(one, (number % columns * width, number // columns * height))
  sheet.save(out, quality=88)


if __name__ == '__main__':
  tyro.cli(main)
