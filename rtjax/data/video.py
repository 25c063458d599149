"""Frames of video files, read with PyAV (the extras `video` and `lerobot`)."""
import collections
import itertools
import pathlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rtjax.runtime import limits

_FORMATS = 'mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi'
_MAX_BYTES = 2 << 30  # an episode is in memory at once
_OPEN = 8  # files that a thread keeps open; opening one reads its index


def read(path: pathlib.Path) -> np.ndarray:
  """Return all frames of the first video stream: uint8 [frames, H, W, 3].

  Frames are not resampled in time: a step is a frame.

  Raises:
    ValueError: PyAV is missing, or the file is damaged, rotated by its metadata, or larger than 2 GiB when decoded.
  """
  av, frames = _av(), list[np.ndarray]()
  try:
    with _open(av, path) as container:
      for frame in container.decode(_stream(container)):
        if (len(frames) + 1) * frame.width * frame.height * 3 > _MAX_BYTES:
          raise ValueError(f'it takes more than {_MAX_BYTES >> 30} GiB when decoded ({frame.width}x{frame.height}): '
                           'scale it down, or split the episode')
        frames.append(_pixels(frame))
  except av.FFmpegError as error:
    raise ValueError(f'{error} (after {len(frames)} frames)') from error
  return np.stack(frames) if frames else np.empty((0, 1, 1, 3), np.uint8)


class SpanReader:
  """Reads spans of frames, decoding from the keyframe before each.

  Threads may share it: each has its own open files, the last few that it used.
  """

  def __init__(self) -> None:
    self._local = threading.local()

  def count(self, path: pathlib.Path) -> int:
    """Return the frames in the file's index; 0 without one.

    Raises:
      ValueError: PyAV is missing, or the file is damaged or no video.
    """
    return _stream(self._container(path)).frames

  def frames(self, path: pathlib.Path, times: Sequence[float], tolerance: float) -> Iterator[np.ndarray]:
    """Yield the frame at each time, uint8 [H, W, 3].

    Args:
      times: seconds, ascending.
      tolerance: of a frame's time, less than half of the time between frames.

    Raises:
      ValueError: see `read`; or there is no frame at one of these times.
    """
    av, container = _av(), self._container(path)
    try:
      found = _from(container, times[0] + tolerance)
      for time in times:
        frame = next((frame for frame in found if frame.time >= time - tolerance), None)
        if frame is None or frame.time > time + tolerance:
          raise ValueError(f'it has no frame at {time:.3f} s')
        yield _pixels(frame)
    except av.FFmpegError as error:
      raise ValueError(str(error)) from error

  def _container(self, path: pathlib.Path) -> Any:
    opened = self._local.__dict__.setdefault('opened', collections.OrderedDict())
    if path not in opened:
      opened[path] = _open(_av(), path, threads=1)  # windows are decoded in parallel
      if len(opened) > _OPEN:
        opened.popitem(last=False)  # closed when no iterator needs it
    opened.move_to_end(path)
    return opened[path]


def _from(container: Any, time: float) -> Iterator[Any]:
  """Yield frames from the last keyframe before a time on."""
  stream, back = _stream(container), 0.0
  while True:
    container.seek(int(max(time - back, 0) / stream.time_base), stream=stream)
    frames = container.decode(stream)
    first = next(frames, None)
    # Where frames are stored in another order than shown, the keyframe found may be shown after the time.
    if first is None or first.time <= time or back > time:
      return itertools.chain([first] if first else [], frames)
    back = 2 * back or 1.0


def _av() -> Any:
  try:
    import av
  except ModuleNotFoundError as error:
    raise ValueError("it is a video, and PyAV is not installed: pip install 'rtjax[video]'") from error
  return av


def _open(av: Any, path: pathlib.Path, threads: int = 0) -> Any:
  """Open a file of these kinds alone, by its content.

  A playlist could name other files.
  """
  try:
    container = av.open(str(path), options={'protocol_whitelist': 'file', 'format_whitelist': _FORMATS})
    _stream(container).codec_context.thread_count = threads
    return container
  except av.FFmpegError as error:
    raise ValueError(f'{error} (after 0 frames)') from error


def _stream(container: Any) -> Any:
  if not container.streams.video:
    raise ValueError('it holds no video stream')
  stream = container.streams.video[0]
  width, height = stream.codec_context.width, stream.codec_context.height
  if width * height > limits.IMAGE_PIXELS:
    raise limits.BoundError(f'its frames are {width} x {height}, expected at most {limits.IMAGE_PIXELS:,} pixels')
  return stream


def _pixels(frame: Any) -> np.ndarray:
  if frame.rotation:
    raise ValueError(f'its metadata turn the frames by {frame.rotation} degrees, which viewers apply and readers '
                     'of pixels do not: save it without (ffmpeg applies it when it encodes again)')
  return frame.to_ndarray(format='rgb24')
