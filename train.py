"""Train a robotics transformer: python train.py PRESET --data FOLDER_OR_NAME ..."""
from rtjax.runtime import cli

if __name__ == '__main__':
  cli.run('rtjax.train')
