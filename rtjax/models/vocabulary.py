"""The vocabulary that a vision-language model was trained on: kept with its weights, and checked against them."""
import base64
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rtjax.models import Config, Model, RT2Config

if TYPE_CHECKING:
  from rtjax.language.tokenizer import Tokenizer


def stored(tokenizer: 'Tokenizer') -> dict[str, str]:
  """JSON-able: the vocabulary itself and its id, as checkpoints and exports hold it under 'vocabulary'."""
  return {'id': tokenizer.id, 'model': base64.b64encode(tokenizer.model).decode()}


def restore(found: Mapping[str, str]) -> 'Tokenizer':
  """The vocabulary that `stored` wrote.

  Raises:
    ValueError: it is damaged, or is not the one that its id names.
  """
  from rtjax.language.tokenizer import Tokenizer
  tokenizer = Tokenizer(base64.b64decode(found['model']), found['id'].rpartition('/')[0])
  if tokenizer.id != found['id']:
    raise ValueError(f'the vocabulary kept with the weights is {tokenizer.id!r}, expected {found["id"]!r}: the file '
                     'was changed. Take the original checkpoint.')
  return tokenizer


def attach(model: Model, metadata: Mapping[str, Any]) -> Model:
  """Gives a model the vocabulary of its checkpoint, so that it takes and gives text; one without is left as it is."""
  if isinstance(model.config, RT2Config) and metadata.get('vocabulary'):
    model.vocabulary = restore(metadata['vocabulary'])
    require_fit(model.config, model.vocabulary)
  return model


def fitted(config: RT2Config, tokenizer: 'Tokenizer') -> RT2Config:
  """The configuration with the ids of the action tokens, which depend on the vocabulary.

  Raises:
    ValueError: the vocabulary does not fit; see `require_fit`.
  """
  ids = tuple(map(int, tokenizer.action_ids(config.action_spec.vocab_size)))
  require_fit(config, tokenizer)
  return dataclasses.replace(config, action_ids=ids)


def require_fit(config: Config, tokenizer: 'Tokenizer') -> None:
  """Raises ValueError unless the network has an embedding for every id of the vocabulary, and the same action ids."""
  if tokenizer.size > config.text.vocab_size:
    raise ValueError(f'the vocabulary {tokenizer.id!r} has {tokenizer.size} tokens, the network has embeddings for '
                     f'{config.text.vocab_size}. Take the vocabulary it was trained on, or say '
                     f'--model.text.vocab-size {tokenizer.size} for a new one.')
  ids = tuple(map(int, tokenizer.action_ids(config.action_spec.vocab_size)))
  if config.action_ids and config.action_ids != ids:
    raise ValueError(f'the vocabulary {tokenizer.id!r} says actions with other tokens than the network was trained on. '
                     'Take the vocabulary of its checkpoint.')
