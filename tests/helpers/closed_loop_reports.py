"""Fabricated episode records and closed-loop reports."""
from rtjax.evaluation.closed_loop import summary
from rtjax.evaluation.closed_loop.protocol import FORMAT


def record(split='seen', skill='pick', seed=0, success=False, **changes):
  return {
      'split': split, 'skill': skill, 'seed': seed, 'task': 'pick: red cube', 'instruction': '<pick> & "place"',
      'success': success, 'failure': None if success else 'timeout', 'message': '',
      'outcome': 'success' if success else 'touched only', 'wrong_object': None, 'steps': 7, 'jerk': 2.0, 'clipped': 1,
      'confidence': 0.5, 'interventions': 0, 'latency_ms': [4.0, 8.0], 'filmstrip': [0, 3]} | changes


RECORDS = [
    record(seed=0, success=True, steps=5), record(seed=1, success=True, steps=9),
    record(seed=2, skill='open', success=False, interventions=3),
    record(split='unseen_objects', seed=0, failure='wrong object', wrong_object='blue cube',
           outcome='held other object'),
    record(split='unseen_objects', seed=1, success=True, steps=7),
    record(split='unseen_words', seed=0, failure='wrong object', wrong_object='green can', jerk=None, confidence=None),
    record(split='unseen_words', skill='open', seed=2, success=True, latency_ms=[]),
    record(split='clutter', seed=0, failure='dropped')]


def policy(name='mine', records=RECORDS, **identity):
  return {'name': name, 'identity': identity, 'summary': summary.summarize(records), 'episodes': records}


def report(*policies, **protocol):
  settings = {
      'env': 'toy', 'settings': {'size': [8, 8]}, 'splits': {'seen': ['pick']}, 'episodes_per_split': 3,
      'first_seed': 0, 'control_hz': 5, 'max_steps': 80, 'threshold': 0.0, 'versions': {'mujoco': '3'}} | protocol
  return {'format': FORMAT, 'created': '2026-01-01T00:00:00+00:00', 'machine': 'cpu', 'protocol': settings,
          'policies': list(policies), **summary.compare(policies)}
