"""Frames of video files, read with PyAV (the extra `video`)."""
import pathlib

import numpy as np

_FORMATS = 'mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi'
_MAX_BYTES = 2 << 30  # an episode is in memory at once


def read(path: pathlib.Path) -> np.ndarray:
  """Return all frames of the first video stream: uint8 [frames, H, W, 3].

  Frames are not resampled in time: a step is a frame.

  Raises:
    ValueError: PyAV is missing, or the file is damaged, rotated by its metadata, or larger than 2 GiB when decoded.
  """
  try:
    import av
  except ModuleNotFoundError as error:
    raise ValueError("it is a video, and PyAV is not installed: pip install 'rtjax[video]'") from error
  frames: list[np.ndarray] = []
  try:
    # Files of these kinds alone, by their content: a playlist could name other files.
    with av.open(str(path), options={'protocol_whitelist': 'file', 'format_whitelist': _FORMATS}) as container:
      if not container.streams.video:
        raise ValueError('it holds no video stream')
      for frame in container.decode(container.streams.video[0]):
        if frame.rotation:
          raise ValueError(f'its metadata turn the frames by {frame.rotation} degrees, which viewers apply and readers '
                           'of pixels do not: save it without (ffmpeg applies it when it encodes again)')
        if (len(frames) + 1) * frame.width * frame.height * 3 > _MAX_BYTES:
          raise ValueError(f'it takes more than {_MAX_BYTES >> 30} GiB when decoded ({frame.width}x{frame.height}): '
                           'scale it down, or split the episode')
        frames.append(frame.to_ndarray(format='rgb24'))
  except av.FFmpegError as error:
    raise ValueError(f'{error} (after {len(frames)} frames)') from error
  return np.stack(frames) if frames else np.empty((0, 1, 1, 3), np.uint8)
