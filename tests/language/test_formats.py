"""Ids around prompts, in each place that encodes them."""
import dataclasses

import numpy as np
import pytest

pytest.importorskip('sentencepiece', reason="needs the extra 'language'")

from helpers import rt2_training, tiny_tokenizers

from rtjax import models
from rtjax.language import formats, prompts
from rtjax.language.instructions import PromptEncoder
from rtjax.language.tokenizer import EOS, Tokenizer
from rtjax.models.backbones.pali import PaLIConfig
from rtjax.policies.policy import Policy


@pytest.fixture(scope='module')
def gemma():
  return Tokenizer(tiny_tokenizers.gemma_model(), 'gemma')


@pytest.mark.parametrize('form, begin, end', [
    (formats.TEXT, [], [EOS]), (formats.GEMMA, [2], []), (formats.PALIGEMMA, [2], [tiny_tokenizers.NEWLINE])])
def test_prompts_of_each_backbone(gemma, form, begin, end):
  text = 'pick up the red cube'
  words = gemma.tokens(prompts.prompt('robot', text))[:-1]
  expected = [*begin, *words, *end]
  assert gemma.tokens(prompts.prompt('robot', text), form) == expected
  ids = PromptEncoder(gemma, 64, form)([text])
  np.testing.assert_array_equal(ids, [[*expected, *[0] * (64 - len(expected))]])
  with pytest.raises(ValueError, match=rf'has {len(expected)} tokens.* at most {len(expected) - 1}'):
    PromptEncoder(gemma, len(expected) - 1, form)([text])


def test_a_newline_behind_the_text_is_that_of_the_vocabulary(gemma):
  """A prompt and its newline encode apart to what they encode to together."""
  assert gemma.tokens('pick up\n', formats.PromptFormat((2,), ())) == gemma.tokens('pick up', formats.PALIGEMMA)


def test_formats_fit_their_tokenizer_only(gemma):
  for form, tokenizer in ((formats.TEXT, gemma), (formats.GEMMA, gemma), (formats.PALIGEMMA, gemma),
                          (formats.TEXT, Tokenizer())):
    tokenizer.check_pieces(form.named)
  with pytest.raises(ValueError, match=r"has '<unk>' at id 2, this backbone needs '<bos>'"):
    Tokenizer().check_pieces(formats.GEMMA.named)
  with pytest.raises(ValueError, match="has 'missing' at id 9999"):
    gemma.check_pieces({9999: '<bos>'})
  with pytest.raises(ValueError, match='expected one for each id'):
    formats.PromptFormat((2,), (), ('<bos>', '\n'))


@pytest.mark.parametrize('form', [formats.TEXT, formats.PALIGEMMA])
def test_the_input_pipeline_gives_the_same_ids(gemma, form):
  pytest.importorskip('tensorflow', reason="needs the extra 'data'")
  from rtjax.data.image_text.tokens import encoder
  some = ['pick up the red cube', '', ' 12  汉字']
  np.testing.assert_array_equal(encoder(gemma)(some, 40, form), gemma.encode(some, 40, form))


def test_model_policy_and_input_agree(gemma, monkeypatch, tmp_path):
  pytest.importorskip('tensorflow', reason="needs the extra 'data'")
  from rtjax.training.text_input import TextInput
  monkeypatch.setattr(PaLIConfig, 'prompt_format', formats.PALIGEMMA)
  config = dataclasses.replace(
      rt2_training.MODEL, prompt_length=50, answer_length=20).with_tokenizer(gemma)
  model = models.build(config, seed=0)
  model.set_tokenizer(gemma)
  expected = model.encode_prompts(['pick up the red cube'], 'robot')
  assert expected[0, 0] == 2 and expected[0].max() < gemma.size
  assert expected[0, np.flatnonzero(expected[0])[-1]] == tiny_tokenizers.NEWLINE
  encoder = Policy(model).encoder
  np.testing.assert_array_equal(encoder(['pick up the red cube']), expected)
  run = rt2_training.config(tmp_path, rt2_training.write_questions(tmp_path), model=config)
  texts = TextInput(run, gemma, (0, 1))
  np.testing.assert_array_equal(texts.prompts({'instructions': ['pick up the red cube']}), expected)
  batch = texts.next()
  np.testing.assert_array_equal(
      batch.prompts[:1], model.encode_prompts([prompts.prompt('vqa', 'what color is it?')]))
  for row in np.asarray(batch.targets):
    assert row[0] != 2 and row[np.flatnonzero(row)[-1]] == EOS
  texts.stream.close()
