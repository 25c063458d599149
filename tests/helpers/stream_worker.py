"""Process that reads a stream: stream_worker.py SETTINGS_AS_JSON.

Prints one JSON line per batch: a hash of all its bytes, its windows, and the state after it. The setting 'kill' ends it
by SIGKILL.
"""
import hashlib
import json
import os
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from rtjax import actions, data


def fingerprint(batch) -> str:
  parts = [(name, array.shape, array.tolist() if array.dtype == object else array.tobytes())
           for name, array in sorted(batch.items())]
  return hashlib.sha256(repr(parts).encode()).hexdigest()


def main(settings) -> None:
  config = data.DataConfig(**settings['config'])
  with data.TrainingStream(settings['datasets'], config, actions.ARM_7D, **settings['stream']) as stream:
    if settings.get('state'):
      stream.restore(settings['state'])
    printed = 0
    # The given number of batches, or the complete first epoch (in batches of one window).
    while printed < settings['batches'] if 'batches' in settings else stream.state()['positions'][0][0] < 1:
      batch = next(stream)
      printed += 1
      windows = [list(map(int, w)) for w in zip(batch['episodes'], batch['steps'], strict=True)]
      print(json.dumps([fingerprint(batch), windows, stream.state()]), flush=True)
    if settings.get('kill'):
      os.kill(os.getpid(), signal.SIGKILL)


if __name__ == '__main__':
  main(json.loads(sys.argv[1]))
