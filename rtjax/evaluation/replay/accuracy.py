"""Figures of a replay report: token accuracy, errors, calibration, latency."""
from collections.abc import Sequence
from typing import Any

import numpy as np

from rtjax.actions import ActionSpec
from rtjax.evaluation.replay.replay import Replay, token_dimensions

_CALIBRATION_BINS = 10
_BOOTSTRAP_SAMPLES = 2000


def summarize(replays: Sequence[Replay], spec: ActionSpec) -> dict[str, Any]:
  """Summarize all steps of the replayed episodes, as JSON-able figures.

  The baseline always predicts the most frequent token of each dimension in these same episodes, so that no other
  constant prediction has a higher accuracy.

  Returns:
    'episodes', 'steps': counts.
    'accuracy': share of correct tokens, of 'policy' and 'baseline', and 'interval', 95 % by bootstrap over episodes,
      None for a single one.
    'dimensions': one dict per token: 'name', 'unit', 'accuracy', 'confidence' (mean), 'l1' (mean absolute error in the
      unit), 'clipped' (share of recorded numbers beyond the bounds), 'baseline_accuracy', 'baseline_l1'; 'l1',
      'baseline_l1' and 'clipped' are None for a class.
    'by_step': lists over the steps of an episode: 'accuracy', 'baseline_accuracy', 'episodes' (with this step).
    'confidence': see `calibration`.
    'latency_ms': 'p50' and 'p95' of a step of the policy.
    'by_episode': 'number', 'instruction', 'steps', 'accuracy', 'baseline_accuracy', 'l1' (one per token, as above).
  """
  tokens = _joined(replays, 'recorded_tokens')
  constant = most_frequent(tokens, spec.vocab_size)
  correct, baseline = _joined(replays, 'correct'), tokens == constant
  latency = np.quantile(_joined(replays, 'seconds') * 1000, (0.5, 0.95))
  return {
      'episodes': len(replays),
      'steps': len(tokens),
      'accuracy': {'policy': float(correct.mean()), 'interval': _interval(replays), 'baseline': float(baseline.mean())},
      'dimensions': _dimensions(replays, spec, constant),
      'by_step': _by_step(replays, constant),
      'confidence': calibration(_joined(replays, 'confidence'), correct),
      'latency_ms': {'p50': float(latency[0]), 'p95': float(latency[1])},
      'by_episode': [_episode(replay, spec, constant) for replay in replays]}


def most_frequent(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
  """Return the most frequent token of each dimension.

  Args:
    tokens: int [steps, K].

  Returns:
    int32 [K], the lowest of equally frequent tokens.
  """
  return np.array([np.bincount(column, minlength=vocab_size).argmax() for column in tokens.T], np.int32)


def calibration(confidence: np.ndarray, correct: np.ndarray) -> dict[str, Any]:
  """Compare confidence with accuracy (reliability diagram; Guo et al. 2017, section 2).

  Returns:
    'mean' confidence; 'calibration_error', the mean over tokens of |accuracy - confidence| of their bin; 'bins' of
    equal width, each with 'tokens' and, unless it is empty, mean 'confidence' and 'accuracy'.
  """
  confidence, correct = confidence.reshape(-1), correct.reshape(-1)
  bins = np.minimum((confidence * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
  rows: list[dict[str, Any]] = []
  error = 0.0
  for index in range(_CALIBRATION_BINS):
    inside = bins == index
    row: dict[str, Any] = {'tokens': int(inside.sum()), 'confidence': None, 'accuracy': None}
    if row['tokens']:
      row |= {'confidence': float(confidence[inside].mean(dtype=np.float64)), 'accuracy': float(correct[inside].mean())}
      error += row['tokens'] / len(correct) * abs(row['accuracy'] - row['confidence'])
    rows.append(row)
  return {'mean': float(confidence.mean(dtype=np.float64)), 'calibration_error': error, 'bins': rows}


def _joined(replays: Sequence[Replay], name: str) -> np.ndarray:
  return np.concatenate([getattr(replay, name) for replay in replays])


def _dimensions(replays: Sequence[Replay], spec: ActionSpec, constant: np.ndarray) -> list[dict[str, Any]]:
  recorded, tokens = _joined(replays, 'recorded'), _joined(replays, 'recorded_tokens')
  l1 = np.abs(_joined(replays, 'predicted') - recorded).mean(0, np.float64)
  baseline_l1 = np.abs(spec.detokenize(constant) - recorded).mean(0, np.float64)
  clipped = spec.clipped(recorded).mean(0)
  accuracy, baseline = _joined(replays, 'correct').mean(0), (tokens == constant).mean(0)
  confidence = _joined(replays, 'confidence').mean(0, np.float64)
  rows: list[dict[str, Any]] = []
  for token, dimension in enumerate(token_dimensions(spec)):
    row = {'name': spec.token_names[token], 'unit': '', 'accuracy': float(accuracy[token]),
           'baseline_accuracy': float(baseline[token]), 'confidence': float(confidence[token]),
           'l1': None, 'baseline_l1': None, 'clipped': None}
    if dimension is not None:
      row |= {'unit': spec.dimension_units[dimension], 'l1': float(l1[dimension]),
              'baseline_l1': float(baseline_l1[dimension]), 'clipped': float(clipped[dimension])}
    rows.append(row)
  return rows


def _by_step(replays: Sequence[Replay], constant: np.ndarray) -> dict[str, list]:
  longest = max(map(len, replays))
  episodes = [sum(len(replay) > step for replay in replays) for step in range(longest)]
  policy, baseline = np.zeros(longest), np.zeros(longest)
  for replay in replays:
    policy[:len(replay)] += replay.correct.mean(1)
    baseline[:len(replay)] += (replay.recorded_tokens == constant).mean(1)
  return {'accuracy': (policy / episodes).tolist(), 'baseline_accuracy': (baseline / episodes).tolist(),
          'episodes': episodes}


def _episode(replay: Replay, spec: ActionSpec, constant: np.ndarray) -> dict[str, Any]:
  l1 = np.abs(replay.predicted - replay.recorded).mean(0, np.float64)
  return {
      'number': replay.number,
      'instruction': replay.instruction,
      'steps': len(replay),
      'accuracy': float(replay.correct.mean()),
      'baseline_accuracy': float((replay.recorded_tokens == constant).mean()),
      'l1': [None if dimension is None else float(l1[dimension]) for dimension in token_dimensions(spec)]}


def _interval(replays: Sequence[Replay]) -> list[float] | None:
  """Compute a 95 % bootstrap interval of the accuracy.

  It resamples episodes, because the steps of an episode are correlated.
  """
  if len(replays) < 2:
    return None
  correct = np.array([replay.correct.sum() for replay in replays])
  tokens = np.array([replay.correct.size for replay in replays])
  drawn = np.random.default_rng(0).integers(len(replays), size=(_BOOTSTRAP_SAMPLES, len(replays)))
  return np.quantile(correct[drawn].sum(1) / tokens[drawn].sum(1), (0.025, 0.975)).tolist()
