"""Stored form of images: what is converted exactly, and what is refused."""
import io

import numpy as np
import pytest
from helpers import hostile_files, robot_logs
from PIL import Image

from rtjax.data.convert.images import encode, inspect, to_images
from rtjax.data.convert.logs import Problem
from rtjax.data.tf import tf

RGB = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
GREY = np.repeat(RGB[..., :1], 3, 2)
PALETTE = Image.fromarray(RGB).convert('P', palette=Image.Palette.ADAPTIVE)


def saved(image, image_format='png', **options):
  buffer = io.BytesIO()
  image.save(buffer, image_format, **options)
  return buffer.getvalue()


def rgba(alpha):
  return np.concatenate([RGB, np.full((12, 16, 1), alpha, np.uint8)], 2)


def rotated():
  exif = Image.Exif()
  exif[274] = 6
  return saved(Image.fromarray(RGB), 'jpeg', exif=exif)


def animation(image_format):
  frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
  return saved(frames[0], image_format, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(('image', 'pixels', 'words'), [
    (RGB, RGB, ''), (RGB[..., 0], GREY, 'grey'), (RGB[..., :1], GREY, 'grey'), (rgba(255), RGB, 'alpha'),
    (saved(Image.fromarray(RGB)), RGB, ''), (saved(Image.fromarray(RGB[..., 0])), GREY, 'grey'),
    (saved(Image.fromarray(rgba(255))), RGB, 'alpha'), (saved(PALETTE), np.asarray(PALETTE.convert('RGB')), 'palette'),
    (saved(Image.fromarray(RGB), 'bmp'), RGB, ''), (saved(Image.fromarray(RGB), 'webp', lossless=True), RGB, '')],
    ids=['rgb', 'grey', 'one channel', 'rgba', 'png', 'grey png', 'rgba png', 'palette png', 'bmp', 'webp'])
def test_other_images_become_rgb_without_loss(image, pixels, words):
  size, conversion = inspect(image)
  assert size == (12, 16) and words in conversion and bool(words) == bool(conversion)
  np.testing.assert_array_equal(tf.io.decode_image(encode(image, 'png', False)), pixels)


@pytest.mark.parametrize(('image', 'words'), [
    (rgba(3), r'alpha down to 3 of 255'), (saved(Image.fromarray(rgba(3))), r'alpha down to 3 of 255'),
    (saved(PALETTE, transparency=0), 'alpha down to 0'),
    (saved(Image.fromarray(RGB[..., 0].astype(np.uint16))), 'PNG of 16 bits.*divide by 257'),
    (tf.io.encode_png(RGB.astype(np.uint16) * 257).numpy(), 'PNG of 16 bits'),
    (saved(Image.fromarray(RGB).convert('CMYK'), 'jpeg'), 'mode CMYK.*as RGB'),
    (rotated(), 'EXIF orientation of an image is 6.*exif_transpose'), (animation('png'), 'animation of 2 frames'),
    (animation('webp'), 'animation of 2 frames'), (saved(Image.fromarray(RGB), 'tiff'), 'expected JPEG, PNG.*as PNG'),
    (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 'another format')])
def test_images_that_need_a_choice_are_refused(image, words):
  with pytest.raises(Problem, match=words):
    inspect(image)


@pytest.mark.parametrize(('images', 'words'), [
    (np.zeros((2, 4, 5, 3), np.uint16), 'Colours of 16 bits: divide by 257'),
    (np.ones((2, 4, 5, 3)), 'Multiply by 255'),
    (np.full((2, 4, 5, 3), 200.0), 'Round, and save as uint8'), (np.zeros((4, 5, 3), np.uint8), 'A single image'),
    (np.zeros((2, 1, 4, 5), np.uint8), 'The channels come first')])
def test_arrays_that_are_refused(images, words):
  with pytest.raises(Problem, match=words):
    to_images(images)


def test_encoded_images_padded_to_one_length():
  """A BMP may end with zeros, which NumPy removes from byte strings."""
  black = Image.fromarray(np.zeros((5, 4, 3), np.uint8))
  stored = [saved(black, 'bmp'), saved(Image.fromarray(RGB), 'png')]
  for images in (to_images(np.array(stored)), to_images(np.stack([
      np.frombuffer(image.ljust(2000, b'\0'), np.uint8) for image in stored]))):
    assert [inspect(image).size for image in images] == [(5, 4), (12, 16)] and images[1] == stored[1]


def test_jpeg_is_copied_and_bgr_is_reversed():
  pixels = np.broadcast_to(np.uint8([200, 10, 30]), (12, 16, 3))
  jpeg = robot_logs.encoded(pixels, 'jpeg')
  assert encode(jpeg, 'jpeg', False) == jpeg
  reversed_image = Image.open(io.BytesIO(encode(jpeg, 'png', True)))
  np.testing.assert_allclose(np.asarray(reversed_image)[0, 0], [30, 10, 200], atol=4)


def test_postscript_in_an_episode_is_not_run():
  for encoded in (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', hostile_files.png(50_000, 50_000)):
    with pytest.raises(Problem, match=r'of another format|expected at most'):
      inspect(encoded)
