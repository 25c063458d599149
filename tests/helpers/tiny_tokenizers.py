"""Small vocabularies with the special ids of Gemma and PaliGemma, in both kinds of files."""
import functools
import io

SPECIAL = ['<pad>', '<eos>', '<bos>', '<unk>']
NEWLINE = 108
_TEXTS = ['pick up the red cube', 'move the green ball near the blue bowl', 'what action should the robot take to',
          'Grün 12 34 567', 'answer: how many cubes are there? yes no', 'close the middle drawer'] * 20


def _placed(locations, version):
  """Symbols from id 4 on; a newline is at 108, as published."""
  unused = [f'<unused{i}>' for i in range(NEWLINE - 4)]
  if version == 3:
    further = (f'<unused{NEWLINE + i}>' for i in range(locations))
    return ['<start_of_image>', '<end_of_image>', *unused[2:], '\n\n', *further]
  segments = 128 if locations == 1024 else 0
  return [*unused, '\n', *(f'<loc{i:04}>' for i in range(locations)), *(f'<seg{i:03}>' for i in range(segments))]


@functools.cache
def gemma_model(locations=0, size=420, version=1, words=''):
  """Bytes of a tokenizer.model of byte pairs with a fallback to bytes.

  Args:
    locations: tokens of coordinates; with all 1024 those of segments follow. In Gemma 3's, unused tokens.
    size: number of the other tokens.
    version: of Gemma.
    words: further text that it is made from.
  """
  import sentencepiece
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter([*_TEXTS, *[words] * 20]), model_writer=model, minloglevel=2, model_type='bpe',
      vocab_size=size - len(_placed(0, 1)) + len(_placed(locations, version)),
      byte_fallback=True, split_digits=True, add_dummy_prefix=False, remove_extra_whitespaces=False, pad_id=0, eos_id=1,
      bos_id=2, unk_id=3, pad_piece='<pad>', eos_piece='<eos>', bos_piece='<bos>', unk_piece='<unk>',
      normalization_rule_name='identity', user_defined_symbols=_placed(locations, version))
  return model.getvalue()


@functools.cache
def gemma_json(locations=0, size=420, version=1):
  """Bytes of a tokenizer.json of the same vocabulary."""
  import sentencepiece
  from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
  pieces = sentencepiece.SentencePieceProcessor(model_proto=gemma_model(locations, size, version))
  ids = {pieces.id_to_piece(i): i for i in range(len(pieces))}
  placed = _placed(locations, version)
  merges = [(piece[:i], piece[i:]) for piece in list(ids)[len(SPECIAL) + len(placed):] if not pieces.is_byte(ids[piece])
            for i in range(1, len(piece)) if piece[:i] in ids and piece[i:] in ids]
  tokenizer = Tokenizer(models.BPE(ids, merges, unk_token='<unk>', fuse_unk=True, byte_fallback=True))
  tokenizer.normalizer = normalizers.Replace(' ', '\u2581')
  tokenizer.decoder = decoders.Sequence([decoders.Replace('\u2581', ' '), decoders.ByteFallback(), decoders.Fuse()])
  tokenizer.add_special_tokens([AddedToken(piece, normalized=False) for piece in SPECIAL])
  tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in placed])
  tokenizer.post_processor = processors.TemplateProcessing(single='<bos> $A', special_tokens=[('<bos>', 2)])
  tokenizer.enable_truncation(5)
  return tokenizer.to_str().encode()
