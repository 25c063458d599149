"""Trains a robotics transformer: python train.py PRESET --data FOLDER_OR_NAME ...  (python train.py --list)"""
import sys

from rtjax.runtime import cli
from rtjax.training import config as configuration


def main() -> None:
  config = configuration.parse(sys.argv[1:])
  # Only now: --help should not wait for it.
  from rtjax.training import checkpoint, loop
  try:
    outcome = loop.train(config)
  except (loop.TrainingError, checkpoint.CheckpointError) as error:
    print(f'error: {error}', file=sys.stderr)
    raise SystemExit(1) from None
  if not outcome.finished:
    print(f'Stopped and saved at step {outcome.step} of {config.steps}. The same command resumes there.')
    raise SystemExit(1)
  print(f'Results: {outcome.run}/metrics.jsonl')
  if config.tensorboard:
    print(f'Curves: tensorboard --logdir {outcome.run}')
  if outcome.best_step is not None:
    print(f'Best validation loss: {outcome.run}/checkpoints/{outcome.best_step}')
  if config.data:
    print(f'Next: python eval.py {outcome.run} --dataset {config.data[0]}')
  else:
    print(f'Next, to act: the same preset with --data ROBOT_EPISODES --init-from {outcome.run} and another --output')


if __name__ == '__main__':
  cli.run(main)
