"""Videos as cameras of an episode."""
import sys

import numpy as np
import pytest
from helpers import robot_logs

from rtjax.data import video
from rtjax.data.convert import logs

FRAMES = robot_logs.episode(0)['images']


def write(path, frames=FRAMES, codec='ffv1', pixels='bgr0'):
  av = pytest.importorskip('av', reason="needs the extra 'video'")
  with av.open(str(path), 'w') as container:
    stream = container.add_stream(codec, rate=5)
    stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
    for pixels_of_frame in frames:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels_of_frame, format='rgb24')))
    container.mux(stream.encode())
  return path


def test_frames_of_a_lossless_video_are_exact(tmp_path):
  np.testing.assert_array_equal(video.read(write(tmp_path / 'front.mkv')), FRAMES)


def test_a_video_is_a_camera_of_its_folder(tmp_path):
  folder = robot_logs.write_folders(tmp_path, {'a': robot_logs.episode(0)})
  smooth = np.broadcast_to(np.linspace(0, 255, 64, dtype=np.uint8)[None, None, :, None], (6, 48, 64, 3))
  write(folder / 'a/wrist.mp4', smooth, 'mpeg4', 'yuv420p')
  (log,) = logs.find_logs(folder, 'action')
  assert 'wrist' in log.names()
  np.testing.assert_allclose(log.read('wrist').astype(int), smooth, atol=12)


@pytest.mark.parametrize('content', [b'', b'no video', None])
def test_damaged_videos_are_named(tmp_path, content):
  folder = robot_logs.write_folders(tmp_path, {'a': robot_logs.episode(0)})
  file = write(folder / 'a/wrist.mp4', codec='mpeg4', pixels='yuv420p')
  file.write_bytes(file.read_bytes()[:-300] if content is None else content)
  (log,) = logs.find_logs(folder, 'action')
  with pytest.raises(logs.Problem, match=r'wrist\.mp4: '):
    log.read('wrist')


def test_frames_beyond_the_bound_are_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(video, '_MAX_BYTES', 2 * FRAMES[0].size)
  with pytest.raises(ValueError, match=r'16x12.*split the episode'):
    video.read(write(tmp_path / 'front.mkv'))


def test_the_extra_is_named_where_it_is_missing(tmp_path, monkeypatch):
  folder = robot_logs.write_folders(tmp_path, {'a': robot_logs.episode(0)})
  (folder / 'a/wrist.mp4').write_bytes(b'')
  monkeypatch.setitem(sys.modules, 'av', None)
  (log,) = logs.find_logs(folder, 'action')
  with pytest.raises(logs.Problem, match=r"PyAV is not installed: pip install 'rtjax\[video\]'"):
    log.read('wrist')


def test_a_playlist_in_place_of_a_video_reads_no_other_file(tmp_path):
  write(tmp_path / 'secret.mkv')
  for content in ('#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mkv\n#EXT-X-ENDLIST\n',
                  "ffconcat version 1.0\nfile 'secret.mkv'\n"):
    (tmp_path / 'a.mp4').write_text(content)
    with pytest.raises(ValueError, match='frames'):
      video.read(tmp_path / 'a.mp4')
