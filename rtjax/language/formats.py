"""Ids around the text of a prompt, and kinds of action tokens.

    backbone      prompt                               answer
    PaLI (T5)     text </s>                            text </s>
    PaliGemma     <bos> text newline                   text <eos>
    T5Gemma 2     <bos> text                           text <eos>

In all vocabularies padding is 0 and the end of an answer 1. PaliGemma: the published processor puts the newline between
the prompt and the answer.
"""
import dataclasses
from typing import Literal

ActionVocabulary = Literal['auto', 'integers', 'rarest', 'loc']
"""Tokens that stand for the bins of an action; see `Tokenizer.action_ids`."""


@dataclasses.dataclass(frozen=True)
class PromptFormat:
  """Ids in front of and behind a text.

  Attributes:
    begin: ids in front.
    end: ids behind; by default the end of a text.
    pieces: the tokens that `begin` and `end` must be in a tokenizer, in this order; empty: not checked.
  """
  begin: tuple[int, ...] = ()
  end: tuple[int, ...] = (1,)
  pieces: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    if self.pieces and len(self.pieces) != len(self.begin + self.end):
      raise ValueError(f'pieces is {self.pieces} for the ids {self.begin + self.end}, expected one for each id.')

  @property
  def named(self) -> dict[int, str]:
    """Tokens that ids must be in a tokenizer."""
    return dict(zip(self.begin + self.end, self.pieces, strict=False))

  def __call__(self, ids: list[int]) -> list[int]:
    """Return the ids of a text with those around it."""
    return [*self.begin, *ids, *self.end]


TEXT = PromptFormat()
"""Answers of all backbones, and prompts of PaLI."""
PALIGEMMA = PromptFormat(begin=(2,), end=(108,), pieces=('<bos>', '\n'))
GEMMA = PromptFormat(begin=(2,), end=(), pieces=('<bos>',))
"""T5Gemma 2 and Gemma 3."""
