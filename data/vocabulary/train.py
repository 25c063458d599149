"""Training of the package's vocabulary on the project's text.

    python data/vocabulary/train.py

The text consists of the tabletop's instructions, questions, answers and captions of data/tabletop_qa, and the guides in
docs. Byte fallback encodes any other text, every integer of 0 to 255 is a token, and case and Unicode are not
normalised (the table for Unicode alone would be 240 KB).
"""
import dataclasses
import io
import itertools
import pathlib
import string
import sys
from collections.abc import Iterator

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'tabletop_qa'))

import examples
import sentencepiece
import tyro
from scenes import GenerationConfig

from rtjax.envs.tabletop import language, splits, tasks
from rtjax.language import prompts
from rtjax.language.tokenizer import Tokenizer
from rtjax.runtime import cli

ROOT = pathlib.Path(__file__).resolve().parents[2]
_INTEGERS = [f'\u2581{i}' for i in range(256)]  # with the mark of a leading space: '1 128' is two tokens
_INSTRUCTION_STRIDE = 7  # most instructions differ in their objects alone
_IMAGES = 600


@dataclasses.dataclass(frozen=True)
class Config:
  """Train the vocabulary."""
  out: pathlib.Path = ROOT / 'rtjax/language/vocabulary.model'
  """Output file."""
  size: int = 1536
  """Number of tokens, of which 515 are bytes, integers and marks."""


def corpus() -> Iterator[str]:
  """Yield the training texts."""
  yield from itertools.islice(_instructions(), None, None, _INSTRUCTION_STRIDE)
  for example in examples.examples(GenerationConfig(renderer='none'), 0, _IMAGES):
    for pair in example['pairs']:
      yield prompts.prompt(pair['kind'], pair['question'])
      yield pair['answer']
  for path in sorted([ROOT / 'README.md', *ROOT.glob('docs/**/*.md')]):
    yield from filter(None, path.read_text().splitlines())


def train(texts: Iterator[str], size: int) -> bytes:
  """Train a SentencePiece model of `size` tokens.

  The special tokens are T5's: padding 0, end 1, unknown 2.
  """
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=texts, model_writer=model, vocab_size=size, model_type='unigram', byte_fallback=True,
      pad_id=0, eos_id=1, unk_id=2, bos_id=-1, normalization_rule_name='identity', user_defined_symbols=_INTEGERS,
      required_chars=string.digits + string.ascii_letters + string.punctuation, character_coverage=1.0,
      split_digits=True, num_threads=1, minloglevel=2)
  return model.getvalue()


def _instructions() -> Iterator[str]:
  for skill in tasks.SKILLS:
    for reason in ('', 'instruction', 'object'):
      for task in splits.tasks(skill, reason):
        for seen in (True, False):
          yield from language.instructions(task, seen)
          yield from (prompts.prompt('robot', text) for text in language.instructions(task, seen))


def main(config: Config) -> None:
  model = train(corpus(), config.size)
  config.out.write_bytes(model)
  tokenizer = Tokenizer(model)
  print(f'{config.out}: {tokenizer.size} tokens, {len(model)} bytes, id {tokenizer.id}')


if __name__ == '__main__':
  cli.run(lambda: main(tyro.cli(Config)))
