"""Run folders with one checkpoint, in the layout that `rtjax.checkpoints` reads."""
import json
import pathlib

import orbax.checkpoint as ocp
from flax import nnx

from rtjax.checkpoints import FORMAT
from rtjax.models import PolicyModel, config_to_json
from rtjax.models.layers.common import Constant


def save(model: PolicyModel, folder: pathlib.Path, embedding_id: str, statistics=(), image_size=None,
         **metadata) -> pathlib.Path:
  """Write the checkpoint of step 0; return `folder`."""
  step = folder.resolve() / 'checkpoints' / '0'
  kinds = {'params': nnx.Param, 'batch_stats': nnx.BatchStat, 'constants': Constant}
  with ocp.StandardCheckpointer() as writer:
    writer.save(step / 'state', {name: _tree(nnx.state(model, kind)) for name, kind in kinds.items()})
  data = {'format': FORMAT, 'step': 0, 'config': config_to_json(model.config), 'statistics': dict(statistics),
          'embedding_id': embedding_id, 'data': [], 'metrics': {},
          'train': {'pipeline': {'image_size': image_size, 'views': []}}} | metadata
  if model.tokenizer is not None:
    data['tokenizer'] = model.tokenizer.to_json()
  (step / 'metadata').mkdir()
  (step / 'metadata' / 'metadata').write_text(json.dumps(data))
  return folder


def _tree(state: nnx.State) -> dict:
  def with_string_keys(tree):
    return {str(key): with_string_keys(value) for key, value in tree.items()} if isinstance(tree, dict) else tree
  return with_string_keys(nnx.to_pure_dict(state))
