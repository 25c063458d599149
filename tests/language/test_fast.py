"""FAST against a brute-force version; bounds of its error; JSON."""
import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

pytest.importorskip('tokenizers', reason="needs the extra 'language'")

from rtjax import actions
from rtjax.language.fast import FastCodec

LOW, HIGH, HORIZON = (-0.1, 0.0, -2.0), (0.1, 1.0, 3.0), 8


def chunks(count, seed=0):
  """Smooth movements, and noise."""
  random = np.random.default_rng(seed)
  time = np.linspace(0, 1, HORIZON)[None, :, None]
  start, end, noise = (random.uniform(-1, 1, (count, n, 3)) for n in (1, 1, HORIZON))
  scaled = np.clip(start + (end - start) * time + 0.02 * noise, -1, 1)
  return (np.array(LOW) + (scaled + 1) / 2 * (np.array(HIGH) - np.array(LOW))).astype(np.float32)


@pytest.fixture(scope='module')
def codec():
  return FastCodec.fit(chunks(500), LOW, HIGH, size=256)


def brute_force_integers(chunk, scale):
  """Coefficients by their definition, frequency by frequency."""
  out = []
  for f in range(HORIZON):
    for a in range(3):
      scaled = [2 * (float(chunk[t, a]) - LOW[a]) / (HIGH[a] - LOW[a]) - 1 for t in range(HORIZON)]
      total = sum(x * math.cos(math.pi * f * (t + 0.5) / HORIZON) for t, x in enumerate(scaled))
      out.append(round(scale * total * math.sqrt((1 if f == 0 else 2) / HORIZON)))
  return out


def brute_force_tokens(symbols, merges, ids):
  """Merge pairs, the earliest learned first, until there is none."""
  rank = {tuple(pair): i for i, pair in enumerate(merges)}
  while found := [p for p in itertools.pairwise(symbols) if p in rank]:
    best, merged, i = min(found, key=rank.__getitem__), [], 0
    while i < len(symbols):
      width = 2 if tuple(symbols[i:i + 2]) == best else 1
      merged.append(''.join(symbols[i:i + width]))
      i += width
    symbols = merged
  return [ids[symbol] for symbol in symbols]


def test_tokens_are_those_of_brute_force(codec):
  model = json.loads(codec.model)['model']
  most = round(10 * math.sqrt(HORIZON))
  some = chunks(50, seed=1)
  for chunk, ids in zip(some, codec.encode(some), strict=True):
    symbols = [chr(0x4e00 + most + i) for i in brute_force_integers(chunk, 10)]
    assert ids == brute_force_tokens(symbols, model['merges'], model['vocab'])


def test_merges_are_of_the_most_frequent_pair(codec):
  first = json.loads(codec.model)['model']['merges'][0]
  most, counts = round(10 * math.sqrt(HORIZON)), {}
  for chunk in chunks(500):
    symbols = [chr(0x4e00 + most + i) for i in brute_force_integers(chunk, 10)]
    for pair in itertools.pairwise(symbols):
      counts[pair] = counts.get(pair, 0) + 1
  assert counts[tuple(first)] == max(counts.values())


@pytest.mark.parametrize('scale', [3.0, 10.0, 100.0])
def test_error_is_bounded_by_rounding(scale):
  """In root mean square at most half a step, for data as in training and for any other."""
  codec = FastCodec.fit(chunks(100), LOW, HIGH, scale=scale, size=1024)
  half_range = (np.array(HIGH) - np.array(LOW)) / 2
  extremes = np.random.default_rng(2).choice([0.0, 1.0], (50, HORIZON, 3)) * 2 * half_range + np.array(LOW)
  for some in (chunks(50, seed=3), extremes, np.full((1, HORIZON, 3), HIGH), np.full((1, HORIZON, 3), LOW)):
    back = np.array([codec.decode(ids) for ids in codec.encode(some)])
    error = (back - some) / half_range
    assert back.dtype == np.float32 and np.sqrt(np.mean(error ** 2, axis=1)).max() <= 0.5 / scale + 1e-6


def test_smooth_chunks_are_few_tokens(codec):
  """A token per number would be 24."""
  assert codec.size == 256
  assert np.mean([len(ids) for ids in codec.encode(chunks(100, seed=4))]) < 14


def test_numbers_beyond_the_bounds_count_as_the_bound(codec):
  assert codec.encode(np.full((1, HORIZON, 3), 9.0)) == codec.encode(np.full((1, HORIZON, 3), HIGH))


def test_bounds_of_an_action_spec():
  low, high = actions.ARM_7D.bounds
  some = np.random.default_rng(0).uniform(low, high, (20, 4, len(low)))
  codec = FastCodec.fit(some, low, high)
  assert codec.decode(codec.encode(some)[0]).shape == (4, len(low))


def test_json(codec):
  stored = json.loads(json.dumps(codec.to_json()))
  back = FastCodec.from_json(stored)
  assert back == codec and back.encode(chunks(5)) == codec.encode(chunks(5))
  for change, message in (({'model': 'x'}, 'expected'), ({'low': None}, 'cannot be read'),
                          ({'horizon': 9}, 'model has other symbols'),
                          ({'scale': 0.0}, r'scale is 0\.0'), ({'low': [0.5, 0, 0]}, 'low < high'),
                          ({'horizon': 10 ** 9}, 'the horizon is 1000000000')):
    with pytest.raises(ValueError, match=message):
      FastCodec.from_json(stored | change)


def test_bad_input(codec):
  with pytest.raises(ValueError, match=r'shape \(2, 8, 4\), expected \[n, 8, 3\]'):
    codec.encode(np.zeros((2, HORIZON, 4)))
  with pytest.raises(ValueError, match='NaN or infinite'):
    codec.encode(np.full((1, HORIZON, 3), np.nan))
  ids = codec.encode(chunks(1))[0]
  with pytest.raises(ValueError, match=r'coefficients, a chunk of 8 actions has 24'):
    codec.decode(ids[:-1])
  with pytest.raises(ValueError, match='not all in the 256'):
    codec.decode([*ids, 256])
  with pytest.raises(ValueError, match=r'size is 20, .* have 57 symbols'):
    FastCodec.fit(chunks(2), LOW, HIGH, size=20)
  with pytest.raises(ValueError, match='the horizon is 0'):
    FastCodec.fit(np.zeros((8, 3)), LOW, HIGH)
  with pytest.raises(ValueError, match='low < high'):
    dataclasses.replace(codec, high=LOW)
