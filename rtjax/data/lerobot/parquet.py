"""Rows of parquet files, with bounds checked before they take memory (the extra `lerobot`)."""
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rtjax.runtime import limits

try:
  import pyarrow as pa
  import pyarrow.parquet as pq
except ModuleNotFoundError as missing:
  raise ValueError(f"{missing}: LeRobot datasets need pip install 'rtjax[lerobot]'") from missing


def read(path: pathlib.Path, columns: Sequence[str] | None = None) -> pa.Table:
  """Return the columns of a file; None: all.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, beyond a bound, or lacks a column.
  """
  rows = _open(path).metadata.num_rows
  (table,) = read_runs(path, columns, [(0, rows)], rows)
  return table


def read_runs(path: pathlib.Path, columns: Sequence[str] | None, runs: Sequence[tuple[int, int]],
              total: int) -> Iterator[pa.Table]:
  """Yield the rows of each run (first, count), with one row group in memory.

  Args:
    total: rows that the file must have.

  Raises: as `read`; or the file has another number of rows.
  """
  file = _open(path)
  if file.metadata.num_rows != total:
    raise ValueError(f'{path} has {file.metadata.num_rows} rows, its episodes {total} steps by meta/episodes. Is one '
                     'of them truncated? Copy or convert the dataset again.')
  rows = np.cumsum([0] + [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)])
  newest: tuple[int, Any] = -1, None
  for first, count in runs:
    parts = []
    for i in np.flatnonzero((rows[:-1] < first + max(count, 1)) & (rows[1:] > first)):
      if i != newest[0]:
        newest = int(i), _row_group(path, file, int(i), columns)
      start = max(first - int(rows[i]), 0)
      parts.append(newest[1].slice(start, first + count - int(rows[i]) - start))
    yield pa.concat_tables(parts) if parts else file.schema_arrow.empty_table()


def numbers(column: pa.ChunkedArray, size: int, what: str) -> np.ndarray:
  """Return a column of numbers, or lists of `size` numbers: [rows, size].

  Raises:
    ValueError: it holds something else.
  """
  values = column.combine_chunks()
  while pa.types.is_nested(values.type):
    if not hasattr(values, 'flatten') or pa.types.is_struct(values.type):
      raise ValueError(f'{what} is {column.type}, expected numbers')
    values = values.flatten()
  if values.null_count or len(values) != len(column) * size:
    raise ValueError(f'{what} has {len(values)} numbers and {values.null_count} empty cells in {len(column)} rows, '
                     f'expected {size} in each')
  return values.to_numpy(zero_copy_only=False).reshape(len(column), size)


def footprint(path: pathlib.Path, omit: Sequence[str]) -> Iterator[bytes]:
  """Yield the stored bytes of columns, of those in `omit` the size."""
  metadata = _open(path).metadata
  with path.open('rb') as file:
    for group in (metadata.row_group(i) for i in range(metadata.num_row_groups)):
      for column in (group.column(i) for i in range(group.num_columns)):
        start, size = column.dictionary_page_offset or column.data_page_offset, column.total_compressed_size
        yield f'{column.path_in_schema} {group.num_rows} {size}'.encode()
        if column.path_in_schema.split('.')[0] not in omit and column.path_in_schema not in omit:
          limits.check_size(size, limits.ENTRY_BYTES, f'a column of {path}')
          file.seek(start)
          yield file.read(size)


def _open(path: pathlib.Path) -> pq.ParquetFile:
  limits.check_file(path)
  try:
    return pq.ParquetFile(path)
  except (pa.ArrowException, OSError) as error:
    raise _damaged(path, error) from error


def _row_group(path: pathlib.Path, file: pq.ParquetFile, number: int, columns: Sequence[str] | None) -> pa.Table:
  known = file.schema_arrow.names
  missing = [column for column in columns or () if column not in known]
  if missing:
    raise ValueError(f'{path} has no column {missing[0]!r}, it has {known}. meta/info.json describes another file.')
  group = file.metadata.row_group(number)
  for i in range(group.num_columns):
    column = group.column(i)
    if columns is None or column.path_in_schema.split('.')[0] in columns or column.path_in_schema in columns:
      limits.check_size(column.total_uncompressed_size, limits.ENTRY_BYTES, f'{column.path_in_schema!r} of {path}')
  try:
    return file.read_row_group(number, columns=None if columns is None else list(columns))
  except (pa.ArrowException, OSError) as error:
    raise _damaged(path, error) from error


def _damaged(path: pathlib.Path, error: Exception) -> ValueError:
  return ValueError(f'{path} cannot be read: {error}. Is it truncated? Copy it again.')
