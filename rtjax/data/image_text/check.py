"""Check a source of image-text pairs.

    python -m rtjax.data.image_text.check FOLDER
"""
import collections

import rich.progress
import tyro

from rtjax.data import names
from rtjax.runtime import cli

_MAX_SHOWN = 10


def check(source: str, split: str = 'train', vocabulary: str = '') -> None:
  """Decode every image, and print statistics of each task.

  Printed are the number of pairs, and the longest prompt and target in tokens.

  Args:
    source: a folder of JSONL or tar shards, a folder or name of a TFDS dataset.
    split: split to check.
    vocabulary: a SentencePiece file or folder; empty uses the package's own.

  Raises:
    ValueError: entries cannot be used; the message counts them and shows the first.
  """
  names.require_image_text(source)
  # Imported here so that --help does not wait for TensorFlow.
  from rtjax.data import images
  from rtjax.data.image_text.sources import open_source
  from rtjax.data.tf import tf, tfds
  from rtjax.language.tokenizer import Tokenizer
  opened, tokenizer = open_source(source, split), Tokenizer.load(vocabulary) if vocabulary else Tokenizer()
  decode, problems = images.decoder(tfds.features.Image(), None), []
  counts: collections.Counter[str] = collections.Counter()
  longest: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
  for image in rich.progress.track(opened.read_all(), 'images', total=opened.num_records):
    try:
      shape = decode(image.encoded).shape
      if len(shape) != 3:
        raise ValueError(f'it is an animation of shape {shape}')
    except (tf.errors.OpError, ValueError) as error:
      problems.append(f'{image.source}: {getattr(error, "message", error)}')
    for pair in image.pairs:
      counts[pair.task] += 1
      longest[pair.task] = [max(most, len(tokenizer.tokens(text)))
                            for most, text in zip(longest[pair.task], (pair.prompt, pair.target), strict=True)]
  for task, count in counts.items():
    prompt, target = longest[task]
    print(f'{task}: {count} pairs; the longest prompt has {prompt} tokens, the longest target {target}')
  if problems:
    raise ValueError(f'{len(problems)} of {opened.num_records} images cannot be decoded. Fix or remove them.'
                     + ''.join(f'\n  {problem}' for problem in problems[:_MAX_SHOWN])
                     + (f'\n  and {len(problems) - _MAX_SHOWN} more' if len(problems) > _MAX_SHOWN else ''))
  print(f'{opened.num_records} images of {split!r} can be used.')


def main() -> None:
  tyro.cli(check, prog=cli.prog('python -m rtjax.data.image_text.check'), config=(tyro.conf.PositionalRequiredArgs,))


if __name__ == '__main__':
  cli.run(main)
