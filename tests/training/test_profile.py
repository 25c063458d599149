"""Trace of a few training steps."""
import dataclasses
import gzip
import json

from helpers import tiny_training

from rtjax.training import loop
from rtjax.training.config import LoggingConfig


def test_the_trace_names_steps_and_waiting(tmp_path):
  config = tiny_training.config(tmp_path / 'run', steps=6)
  loop.train(dataclasses.replace(config, logging=LoggingConfig(tensorboard=False, profile=2)),
             data=tiny_training.data())
  (trace,) = (tmp_path / 'run/profile').rglob('perfetto_trace.json.gz')
  events = json.loads(gzip.decompress(trace.read_bytes()))['traceEvents']
  steps = {event['args'].get('step_num') for event in events if event.get('name') == 'train'}
  assert steps == {'3', '4'} or steps == {3, 4}
  assert {'waiting for data', 'transfer'} <= {event.get('name') for event in events}
  assert list((tmp_path / 'run/profile').rglob('*.xplane.pb'))
