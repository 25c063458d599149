"""Evaluation of a policy: python eval.py CHECKPOINT --env tabletop, or --dataset FOLDER_OR_NAME."""
from rtjax.runtime import cli

if __name__ == '__main__':
  cli.run('rtjax.eval')
