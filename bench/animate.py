"""Draw episodes of a policy in the tabletop as one animated WebP.

  python bench/animate.py checkpoints/demo docs/images/policy.webp
  python bench/animate.py expert docs/images/policy.webp --skills pick upright put_into open_drawer

Every tile shows one episode, with its instruction below and, at its end, a coloured frame: green for success, red for
failure. The seeds are those that `eval.py` starts with. Each episode runs in two environments with equal seeds and
actions: one renders the images of the policy, the other larger ones to show.
"""
import io
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont

import rtjax
from rtjax import envs
from rtjax.envs.tabletop.env import Tabletop
from rtjax.policies.image_size import camera_size
from rtjax.policies.policy import Policy

FIRST_SEED = 3_000_000_000
"""First seed of closed-loop evaluation; those of demonstrations are lower."""
MAX_BYTES = 2_000_000
GREEN, RED = (34, 139, 74), (190, 40, 40)

_LINE, _BORDER = 22, 4  # pixels: height of the instruction's line, width of the coloured frame
_PAUSE = 15  # repeats of the last frame


class Episode(NamedTuple):
  images: list[np.ndarray]  # uint8 [H, W, 3]
  instruction: str
  success: bool


def run_episode(policy: Policy | None, seed: int, skill: str, split: str, policy_size: tuple[int, int],
                size: int) -> Episode:
  """Run an episode of the policy, or of the expert without one."""
  env: Any = envs.make('tabletop', split=split, image_size=policy_size, wrist=False,
                       renderer='rays' if policy else 'none')
  shown: Any = envs.make('tabletop', split=split, image_size=(size, size), wrist=False)
  observation, info = env.reset(seed=seed, options={'skill': skill})
  images = [shown.reset(seed=seed, options={'skill': skill})[0]['image']]
  act = _actor(policy, env, observation['instruction'])
  done = False
  while not done:
    action = act(observation)
    observation, _, terminated, truncated, info = env.step(action)
    images.append(shown.step(action)[0]['image'])
    done = terminated or truncated
  env.close()
  shown.close()
  return Episode(images, observation['instruction'], info['success'])


def _actor(policy: Policy | None, env: Tabletop, instruction: str) -> Callable[[dict[str, Any]], np.ndarray]:
  if policy is None:
    expert = env.expert()
    return lambda observation: expert(env.state)
  policy.reset(instruction)
  reads_state = policy.config.proprioception_size > 0
  return lambda observation: policy.step(
      observation['image'], proprioception=observation['proprioception'] if reads_state else None).plan[0]


def tile(episode: Episode, frame: int) -> Image.Image:
  """Draw one frame of an episode; after its end, the last one."""
  image = Image.fromarray(episode.images[min(frame, len(episode.images) - 1)])
  out = Image.new('RGB', (image.width, image.height + _LINE), 'white')
  out.paste(image)
  draw = ImageDraw.Draw(out)
  if frame >= len(episode.images) - 1:
    draw.rectangle((0, 0, image.width - 1, image.height - 1), outline=GREEN if episode.success else RED, width=_BORDER)
  draw.text((image.width / 2, image.height + _LINE / 2), episode.instruction, 'black', ImageFont.load_default(12), 'mm')
  return out


def animate(episodes: list[Episode], columns: int, milliseconds: int) -> bytes:
  """Encode episodes side by side as a WebP of at most MAX_BYTES."""
  length = max(len(episode.images) for episode in episodes)
  frames = []
  for frame in [*range(length), *[length - 1] * _PAUSE]:
    tiles = [tile(episode, frame) for episode in episodes]
    width, height = tiles[0].size
    sheet = Image.new('RGB', (columns * width, -(-len(tiles) // columns) * height), 'white')
    for i, one in enumerate(tiles):
      sheet.paste(one, (i % columns * width, i // columns * height))
    frames.append(sheet)
  for quality in range(85, 20, -10):
    file = io.BytesIO()
    frames[0].save(file, 'WEBP', save_all=True, append_images=frames[1:], duration=milliseconds, loop=0,
                   quality=quality, method=6)
    if file.tell() <= MAX_BYTES:
      return file.getvalue()
  raise ValueError(f'the animation takes {file.tell()} bytes, expected at most {MAX_BYTES}: reduce --size.')


def main(checkpoint: tyro.conf.Positional[str], out: tyro.conf.Positional[pathlib.Path], episodes: int = 4,
         first: int = 0, skills: tuple[str, ...] = ('pick',), split: str = 'seen', size: int = 232, columns: int = 4,
         milliseconds: int = 100) -> None:
  """Run the episodes and write the animation.

  Args:
    checkpoint: a policy trained in the tabletop, or 'expert'.
    out: the file to write.
    episodes: number of episodes, with the skills in turn.
    first: number of the first episode in the evaluation's order of seeds.
    skills: skills of the tabletop.
    split: split of the tabletop.
    size: height and width of a tile, pixels.
    columns: tiles of a row.
    milliseconds: duration of a control step in the animation; 200 is real time.
  """
  policy = None if checkpoint == 'expert' else rtjax.load_policy(checkpoint)
  policy_size = camera_size(policy.config, policy.metadata) if policy else (96, 96)
  found = [run_episode(policy, FIRST_SEED + first + i, skills[i % len(skills)], split, policy_size, size)
           for i in range(episodes)]
  out.parent.mkdir(parents=True, exist_ok=True)
  data = animate(found, columns, milliseconds)
  out.write_bytes(data)
  for episode in found:
    print(f'{episode.instruction}: {"success" if episode.success else "failure"}, {len(episode.images) - 1} steps')
  print(f'{out}: {len(data) / 1e6:.2f} MB')


if __name__ == '__main__':
  tyro.cli(main)
