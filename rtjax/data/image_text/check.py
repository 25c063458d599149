"""Looks through a source of pictures with texts: python -m rtjax.data.image_text.check FOLDER"""
import collections

import rich.progress

from rtjax.data import images
from rtjax.data.image_text.sources import open_source
from rtjax.data.tf import tf, tfds
from rtjax.language.tokenizer import Tokenizer

_SHOWN = 10


def check(source: str, split: str = 'train', vocabulary: str = '') -> None:
  """Decodes every picture, counts what cannot be used, and prints the pairs of each kind and their longest texts.

  Args:
    source: a folder of JSONL or tar shards, a folder or name of a TFDS dataset.
    split: which part of it.
    vocabulary: a SentencePiece file or folder; empty takes the package's own.

  Raises:
    ValueError: something cannot be used; the message counts all, and shows the first.
  """
  opened, tokenizer = open_source(source, split), Tokenizer.load(vocabulary) if vocabulary else Tokenizer()
  decode, problems = images.decoder(tfds.features.Image(), None), []
  counts: collections.Counter[str] = collections.Counter()
  longest: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
  pictures = opened.read(opened.chunks(opened.num_episodes))
  for picture in rich.progress.track(pictures, 'pictures', total=opened.num_episodes):
    try:
      shape = decode(picture.image).shape
      if len(shape) != 3:
        raise ValueError(f'it is a moving picture of shape {shape}')
    except (tf.errors.OpError, ValueError) as error:
      problems.append(f'{picture.where}: {getattr(error, "message", error)}')
    for pair in picture.pairs:
      counts[pair.kind] += 1
      longest[pair.kind] = [max(most, len(tokenizer.tokens(text)))
                            for most, text in zip(longest[pair.kind], (pair.prompt, pair.target), strict=True)]
  for kind, count in counts.items():
    prompt, target = longest[kind]
    print(f'{kind}: {count} pairs; the longest prompt has {prompt} tokens, the longest target {target}')
  if problems:
    raise ValueError(f'{len(problems)} of {opened.num_episodes} pictures cannot be decoded. Mend or remove them.'
                     + ''.join(f'\n  {problem}' for problem in problems[:_SHOWN])
                     + (f'\n  and {len(problems) - _SHOWN} more' if len(problems) > _SHOWN else ''))
  print(f'{opened.num_episodes} pictures of {split!r} can be used.')


if __name__ == '__main__':
  import tyro

  from rtjax.runtime import cli
  cli.run(lambda: tyro.cli(check, config=(tyro.conf.PositionalRequiredArgs,)))
