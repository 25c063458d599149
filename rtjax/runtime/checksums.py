"""Checksums of the files in a folder, in the format of `sha256sum`.

    # 3f0c... sha256 of the lines below
    a51e...  metadata/metadata
    77b0...  state/d/7edf6df3a9ac5c891b312be62bf9015a

`sha256sum --check SHA256SUMS` in the folder verifies it without rtjax.
"""
import concurrent.futures
import hashlib
import os
from collections.abc import Collection

from etils import epath

from rtjax.runtime import limits

NAME = 'SHA256SUMS'
_BLOCK = 1 << 20
_THREADS = 8  # hashlib lets other threads run; on a network file system they also hide its latency


def write(folder: epath.Path, omit: Collection[str] = ()) -> None:
  """Write the checksums of all files in a folder, except `omit`."""
  files = sorted(_files(folder) - {*omit, NAME})
  lines = ''.join(f'{digest}  {file}\n' for file, digest in zip(files, _digests(folder, files), strict=True))
  (folder / NAME).write_text(f'# {_of_text(lines)} sha256 of the lines below\n{lines}')


def problems(folder: epath.Path, part: slice = slice(None)) -> list[str]:
  """Describe the files that are missing or changed.

  Args:
    part: share of the files to verify, for several processes.

  Raises:
    FileNotFoundError: the folder has no checksums.
  """
  limits.check_file(folder / NAME, limits.JSON_BYTES)
  head, _, lines = (folder / NAME).read_bytes().decode('utf-8', 'replace').partition('\n')
  if head.split()[1:2] != [_of_text(lines)]:
    return [f'{NAME} is damaged itself']
  saved = {file: digest for digest, _, file in (line.partition('  ') for line in lines.splitlines())}
  files = list(saved)[part]
  present = _files(folder)
  lost = [f'{file} is missing' for file in files if file not in present]
  found = [file for file in files if file in present]
  return lost + [f'{file} has other contents than were saved'
                 for file, digest in zip(found, _digests(folder, found), strict=True) if digest != saved[file]]


def _files(folder: epath.Path, prefix: str = '') -> set[str]:
  """Return the paths of all files in a folder, in itself."""
  found: set[str] = set()
  for path in folder.iterdir():
    found |= _files(path, f'{prefix}{path.name}/') if _is_folder(path) else {prefix + path.name}
  return found


def _is_folder(path: epath.Path) -> bool:
  return path.is_dir() and not os.path.islink(path)  # links may lead in a cycle


def _digests(folder: epath.Path, files: list[str]) -> list[str]:
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    return list(pool.map(lambda file: _of_file(folder / file), files))


def _of_file(path: epath.Path) -> str:
  limits.check_file(path)  # a device or a pipe has no end
  digest = hashlib.sha256()
  with path.open('rb') as file:
    while block := file.read(_BLOCK):
      digest.update(block)
  return digest.hexdigest()


def _of_text(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()
