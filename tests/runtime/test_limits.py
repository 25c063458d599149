"""Bounds on files from elsewhere, without a file that is large."""
import io
import json
import os
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from helpers import hostile_files
from PIL import Image

from rtjax import models
from rtjax.actions import ActionSpec
from rtjax.models import RT1Config
from rtjax.runtime import limits, serialization
from rtjax.runtime.limits import read_json


def test_a_sparse_file_is_refused_by_its_size(tmp_path):
  path = hostile_files.sparse(tmp_path / 'huge.json', 2 ** 40)
  with pytest.raises(limits.BoundError, match=r'huge.json has 1,099,511,627,776 bytes, expected at most 67,108,864'):
    limits.read_json(path)


def test_a_pipe_is_refused_and_not_opened(tmp_path):
  os.mkfifo(tmp_path / 'pipe')
  with pytest.raises(limits.BoundError, match='a device or a pipe'):
    limits.check_file(tmp_path / 'pipe')


@pytest.mark.parametrize('depth', [limits.JSON_DEPTH + 1, 100_000])
@pytest.mark.parametrize('pair', ['[]', ('{"a":', '}')])
def test_deep_json(tmp_path, depth, pair):
  opened, closed = pair
  (tmp_path / 'deep.json').write_text(opened * depth + '1' + closed * depth)
  with pytest.raises(limits.BoundError, match=r'deep.json is JSON of more than 64 levels'):
    limits.read_json(tmp_path / 'deep.json')


def test_a_line_without_an_end(tmp_path):
  path = hostile_files.sparse(tmp_path / 'log.jsonl', limits.TEXT_BYTES)
  tracemalloc.start()
  with pytest.raises(limits.BoundError, match=r'log.jsonl, line 1 has 1,048,577 bytes, expected at most 1,048,576'):
    list(limits.lines(path))
  assert tracemalloc.get_traced_memory()[1] < 2 ** 23
  tracemalloc.stop()
  path.write_bytes(b'a\n\nb')
  assert list(limits.lines(path)) == [(1, b'a\n'), (2, b'\n'), (3, b'b')]


def test_json_at_the_bound(tmp_path):
  (tmp_path / 'a.json').write_text('[' * 64 + ']' * 64)
  limits.read_json(tmp_path / 'a.json')
  (tmp_path / 'a.json').write_bytes(b'"\xff"')
  with pytest.raises(ValueError, match=r'a.json is no JSON'):
    limits.read_json(tmp_path / 'a.json')


def test_files_outside_of_the_folder(tmp_path):
  inside = tmp_path / 'inside'
  (inside / 'a').mkdir(parents=True)
  secret = tmp_path / 'secret'
  secret.write_text('x')
  (inside / 'link').symlink_to(secret)
  (inside / 'folder').symlink_to(tmp_path)
  (inside / 'loop').symlink_to('loop')
  (inside / 'good').symlink_to('a')
  for name in (str(secret), '../secret', 'a/../../secret', 'link', 'folder/secret', '/etc/passwd'):
    with pytest.raises(limits.BoundError, match='leads out of the folder'):
      limits.inside(inside, name)
  with pytest.raises(limits.BoundError, match='leads nowhere'):
    limits.inside(inside, 'loop')
  assert limits.inside(inside, 'good').name == 'good'


def test_links_into_the_blobs_of_a_hugging_face_cache(tmp_path):
  cache = tmp_path / 'hub/datasets--lab--pick'
  blob, snapshot = cache / 'blobs/abc', cache / 'snapshots/1f2e/1.0.0'
  for folder in (cache / 'blobs/folder', snapshot):
    folder.mkdir(parents=True)
  for file in (blob, cache / 'secret'):
    file.write_text('x')
  links = {'data': '../../../blobs/abc', 'secret': '../../../secret', 'folder': '../../../blobs/folder'}
  for name, target in links.items():
    (snapshot / name).symlink_to(target)
  assert limits.inside(snapshot, 'data').read_text() == 'x'
  for name in ('secret', 'folder'):
    with pytest.raises(limits.BoundError, match='leads out of the folder'):
      limits.inside(snapshot, name)
  (cache / 'blobs').rename(tmp_path / 'elsewhere')
  (cache / 'blobs').symlink_to(tmp_path / 'elsewhere')  # the cache itself points somewhere else
  with pytest.raises(limits.BoundError, match='leads out of the folder'):
    limits.inside(snapshot, 'data')


@pytest.mark.parametrize('name', ['../x', 'a/b', 'a\\b', '.x', '\x00', 'x' * 101, 3, None])
def test_names_that_are_paths(name):
  with pytest.raises(ValueError, match=r'it is .*, expected a name'):
    limits.check_name(name, 'it')


def test_names():
  assert [limits.check_name(name, 'it') for name in ('unseen objects', 'LIBERO-10', '')]


@pytest.mark.parametrize('encoded', [
    hostile_files.png(50_000, 50_000), hostile_files.bmp(50_000, 50_000), hostile_files.jpeg(60_000, 60_000)],
    ids=['png', 'bmp', 'jpeg'])
def test_images_of_too_many_pixels(encoded):
  for check in (limits.check_image, limits.open_image):
    with pytest.raises(limits.BoundError, match=r'an image is \d+ x \d+, .* expected at most 67,108,864'):
      check(encoded)


def test_a_second_size_in_a_jpeg_is_checked():
  """Pillow takes the last frame header, the check before it the first."""
  small = hostile_files.jpeg(8, 8)
  place = small.index(b'\xff\xc0')
  segment = small[place:place + 19]
  large = segment[:5] + struct.pack('>HH', 60_000, 60_000) + segment[9:]
  with pytest.raises(ValueError, match=r'expected at most|cannot be decoded'):
    limits.open_image(small[:place] + segment + large + small[place + 19:])


@pytest.mark.parametrize('form', ['JPEG', 'PNG', 'BMP', 'WEBP'])
def test_good_images(form):
  buffer = io.BytesIO()
  Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(buffer, form)
  limits.check_image(buffer.getvalue())
  assert limits.open_image(buffer.getvalue()).size == (8, 6)


@pytest.mark.parametrize('content', [
    b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage', b'GIF89a' + bytes(20), b'%PDF-1.4', b'',
    b'\xff\xd8', b'\x89PNG\r\n\x1a\n', b'BM'])
def test_other_formats_are_not_opened(content, monkeypatch):
  monkeypatch.setattr(Image, 'open', None)  # would be an error of another type
  with pytest.raises(ValueError, match='truncated'):
    limits.open_image(content)


def npz(path, header, content=b''):
  with zipfile.ZipFile(path, 'w') as archive:
    text = header.encode() + b' ' * (-(len(header) + 11) % 64) + b'\n'
    archive.writestr('a.npy', b'\x93NUMPY\x01\x00' + struct.pack('<H', len(text)) + text + content)
  return path


def test_an_npz_that_declares_terabytes(tmp_path):
  path = npz(tmp_path / 'a.npz', "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }")
  with limits.open_npz(path) as file, pytest.raises(limits.BoundError, match=r'a declares 8,000,000,000,000 bytes'):
    limits.npz_array(file, 'a', path)


def test_an_npz_of_objects_is_not_unpickled(tmp_path):
  np.savez(tmp_path / 'a.npz', a=np.array([{}], object))
  with limits.open_npz(tmp_path / 'a.npz') as file, pytest.raises(limits.NPZ_DAMAGE):
    limits.npz_array(file, 'a', 'a.npz')
  np.save(tmp_path / 'b.npy', np.array([{}], object), allow_pickle=True)
  with pytest.raises(ValueError, match='not an archive'):
    limits.open_npz(tmp_path / 'b.npy')


def test_a_compressed_tensor_beyond_its_shape():
  bomb = zlib.compress(bytes(10 ** 6))
  limits.check_inflated(bomb, 10 ** 6)
  with pytest.raises(limits.BoundError, match='expected at most 999,999'):
    limits.check_inflated(bomb, 999_999)


def test_git_lfs_pointers(tmp_path):
  pointer = hostile_files.lfs_pointer(tmp_path / 'model.safetensors')
  for check in (limits.check_file, limits.check_downloaded):
    with pytest.raises(ValueError, match=r'model.safetensors is a Git LFS pointer.*`git lfs pull`'):
      check(pointer)
  with pytest.raises(ValueError, match='Git LFS pointer'):
    limits.check_all_downloaded(tmp_path)


@pytest.mark.parametrize('changed', [
    {'layers': 100_000}, {'layers': 10 ** 12}, {'heads': 10 ** 6}, {'window': 10 ** 9},
    {'width': 10 ** 30}, {'encoder': {'depth': 1e9}}])
def test_networks_that_are_too_large_to_build(changed):
  data = models.config_to_json(RT1Config())
  for name, value in changed.items():
    data[name] = data[name] | value if isinstance(value, dict) else value
  with pytest.raises(ValueError, match=r'expected at most|no network can be built'):
    models.abstract(models.config_from_json(data))


@pytest.mark.parametrize('changed', [{'layers': '8'}, {'layers': 8.5}, {'layers': True}, {'action_spec': []}])
def test_configurations_of_wrong_types(changed):
  with pytest.raises(ValueError, match='cannot be read'):
    models.config_from_json(models.config_to_json(RT1Config()) | changed)
  with pytest.raises(ValueError, match='expected a JSON object'):
    models.config_from_json(json.loads('null'))
  for data in ([], 'text', None, 3):
    with pytest.raises(ValueError, match='this ActionSpec cannot be read'):
      serialization.from_json(data, ActionSpec)


def test_json_that_names_an_entry_twice(tmp_path):
  (tmp_path / 'a.json').write_text('{"a": {"success": true, "success": false}}')
  with pytest.raises(ValueError, match=r"a\.json is no JSON: it names 'success' twice"):
    read_json(tmp_path / 'a.json')
