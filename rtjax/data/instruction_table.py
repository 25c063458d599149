"""Write the table of a dataset's instructions and their embeddings.

    python -m rtjax.data.instruction_table DATASET --out table.npz

With the table a policy takes these instructions without their encoder, see `rtjax.language.instructions.Table`.
"""
from collections.abc import Iterator

import numpy as np
import tyro

from rtjax import actions
from rtjax.data import names
from rtjax.language.instructions import collect
from rtjax.runtime import cli


def write_table(dataset: str, out: str = 'instructions.npz', split: str = 'all', encoder: str = '') -> None:
  """Write the table of a dataset's instructions and their embeddings.

  Args:
    dataset: folder of an RLDS or LeRobot dataset, gs:// folder or TFDS name.
    out: file to write.
    split: episodes to read, in TFDS's split algebra.
    encoder: instruction encoder, for a dataset that stores no vectors of it.
  """
  names.require(dataset)
  from rtjax.data.episodes.open import open_dataset  # imported here so that --help does not wait for TensorFlow
  from rtjax.data.language import open_vectors
  opened = open_dataset(dataset, split, actions.RT1, images=False, vectors=open_vectors(encoder))
  without = 0

  def labelled() -> Iterator[tuple[str, np.ndarray]]:
    nonlocal without
    for text, vector in opened.instruction_embeddings():
      without += not text
      if text:
        yield text, vector

  table = collect(opened.embedding_id, labelled())
  table.save(out)
  print(f'{len(table.texts)} sentences of {opened.num_records} episodes, vectors of {table.id} [{table.size}]')
  if without:
    print(f'{without} steps have no instruction, and no place in the table')
  print(f'Table: {out}')


def main() -> None:
  tyro.cli(write_table, prog=cli.prog('python -m rtjax.data.instruction_table'),
           config=(tyro.conf.PositionalRequiredArgs,))


if __name__ == '__main__':
  cli.run(main)
