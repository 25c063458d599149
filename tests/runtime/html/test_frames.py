"""Thumbnails, filmstrips and videos."""
import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from rtjax.runtime.html import frames


def test_evenly_spaced_steps_are_middles_of_equal_parts():
  for length in range(1, 60):
    steps = frames.evenly_spaced(length, 10)
    assert len(set(steps)) == len(steps) == min(length, 10)
    middles = (np.arange(len(steps)) + 0.5) * length / len(steps)
    assert np.abs(np.add(steps, 0.5) - middles).max() <= 0.5


def test_thumbnail_of_several_views_is_one_image():
  views = np.stack([np.full((96, 192, 3), value, np.uint8) for value in (10, 200)])
  thumbnail = frames.thumbnail(views)
  assert thumbnail.shape == (48, 192, 3)
  assert (thumbnail[:, :90] == 10).all() and (thumbnail[:, 100:] == 200).all()


def test_long_video_keeps_its_duration():
  thumbnails = [np.full((8, 8, 3), i // 2, np.uint8) for i in range(400)]
  with Image.open(io.BytesIO(frames.video(thumbnails, 80))) as video:
    assert video.n_frames <= frames.VIDEO_FRAMES
    durations = [frame.copy().info['duration'] for frame in ImageSequence.Iterator(video)]
    assert sum(durations) == pytest.approx(5000, rel=0.05)
