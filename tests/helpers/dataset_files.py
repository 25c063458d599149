"""Files of a dataset, to compare datasets that different processes wrote."""
import pathlib

from rtjax.data.tf import tf


def contents(folder: pathlib.Path) -> dict[str, list[bytes]]:
  """Return the contents of all files by their names, records in order.

  The fields of a record are sorted: protobuf writes them in an order that changes from process to process.
  """
  return {str(path.relative_to(folder)): _records(path) if 'tfrecord' in path.name else [path.read_bytes()]
          for path in sorted(pathlib.Path(folder).rglob('*')) if path.is_file()}


def _records(path: pathlib.Path) -> list[bytes]:
  return [tf.train.Example.FromString(record).SerializeToString(deterministic=True)
          for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()]
