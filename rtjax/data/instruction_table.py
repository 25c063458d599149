"""Write the table of a dataset's instructions and their embeddings.

    python -m rtjax.data.instruction_table DATASET --out table.npz

With the table a policy takes these instructions without their encoder, see `rtjax.language.instructions.Table`.
"""
import tyro

from rtjax import actions
from rtjax.language.instructions import collect
from rtjax.runtime import cli


def write_table(dataset: str, out: str = 'instructions.npz', split: str = 'all') -> None:
  """Write the table of a dataset's instructions and their embeddings.

  Args:
    dataset: folder of an RLDS dataset, gs:// folder or TFDS name.
    out: file to write.
    split: episodes to read, in TFDS's split algebra.
  """
  from rtjax.data.rlds.episodes import Dataset  # imported here so that --help does not wait for TensorFlow
  opened = Dataset(dataset, split, actions.RT1, images=False)
  table = collect(opened.adapter.embedding_id, opened.instruction_embeddings())
  table.save(out)
  print(f'{len(table.texts)} sentences of {opened.num_records} episodes, vectors of {table.id} [{table.size}]')
  print(f'Table: {out}')


if __name__ == '__main__':
  cli.run(lambda: tyro.cli(write_table, config=(tyro.conf.PositionalRequiredArgs,)))
