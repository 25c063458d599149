"""Batches of image-text pairs: weights, order, shares, resuming, and refusals."""
import collections
import itertools

import jax
import numpy as np
import pytest

pytest.importorskip('tensorflow', reason="needs the extra 'data'")
pytest.importorskip('sentencepiece', reason="needs the extra 'language'")

from helpers import image_text_folders as fabricated

from rtjax.data.config import ImageTextConfig, TaskWeights
from rtjax.data.image_text.stream import ImageTextStream, TextShapes, to_text_batch, validation_batches
from rtjax.language import prompts
from rtjax.language.tokenizer import EOS, PAD, Tokenizer

TOKENIZER = Tokenizer()
SHAPES = TextShapes(fabricated.SIZE, 24, 12)
CONFIG = ImageTextConfig(shuffle_images=8, threads=2)


def mixed(folder, count=24, split='train', first=0):
  """Write a third of each task; targets have the image's number."""
  lines = [({'caption': f'number {i}'}, {'question': 'which?', 'answer': f'number {i}'},
            {'caption': f'number {i}', 'answer': 'yes'})[i % 3] for i in range(first, first + count)]
  return fabricated.write_jsonl(folder, lines, split, first)


def stream(sources, config=CONFIG, **changed):
  return ImageTextStream(sources, config, TOKENIZER, SHAPES, **{'batch_size': 4, 'seed': 1} | changed)


def take(made, batches):
  """Return (image, task, target) of each row."""
  out = []
  for batch in itertools.islice(made, batches):
    out += zip(batch['images'][:, 0, 0, 0].tolist(), batch['tasks'].tolist(), batch['target_texts'], strict=True)
  return out


def test_a_batch(tmp_path):
  with stream([mixed(tmp_path)]) as made:
    batch = next(made)
  assert batch['images'].dtype == np.uint8 and batch['images'].shape == (4, *fabricated.SIZE, 3)
  assert batch['prompts'].shape == (4, 24) and batch['targets'].shape == (4, 12)
  assert batch['points'].dtype == np.int32 and (batch['points'] == -1).all() and not batch['grid'].any()
  for row in range(4):
    number = int(batch['images'][row, 0, 0, 0])
    np.testing.assert_array_equal(batch['images'][row], fabricated.pixels(number))
    task = prompts.TASKS[batch['tasks'][row]]
    assert task == ('caption', 'vqa', 'match')[number % 3]
    for name in ('prompt', 'target'):
      ids = batch[f'{name}s'][row]
      assert ids.dtype == np.int32 and TOKENIZER.decode(ids[None]) == [batch[f'{name}_texts'][row]]
      length = list(ids).index(EOS) + 1
      assert (ids[length:] == PAD).all() and (ids[:length] != PAD).all()
    assert batch['target_texts'][row] == ('yes' if task == 'match' else f'number {number}')
    assert batch['prompt_texts'][row] == prompts.prompt(
        task, {'caption': '', 'vqa': 'which?', 'match': f'number {number}'}[task])


def test_points_and_their_grid(tmp_path):
  lines = [{'point': 'a can', 'answer': '3 5', 'grid': 6}, {'point': 'a cup', 'answer': '3 5'}, {'caption': 'a can'}]
  with stream([fabricated.write_jsonl(tmp_path, lines)], batch_size=12) as made:
    batch = next(made)
  assert batch['grid'].dtype == np.int32
  expected = {0: ([3, 5], 6), 1: ([3, 5], 0), 2: ([-1, -1], 0)}
  for row, number in enumerate(batch['images'][:, 0, 0, 0].tolist()):
    assert (batch['points'][row].tolist(), batch['grid'][row]) == expected[number]
  typed = to_text_batch(batch)
  assert typed.grid is batch['grid'] and typed.tasks is batch['tasks'] and typed.weights is None
  assert len(jax.tree.leaves(typed)) == 6


def test_an_epoch_shows_each_pair_once(tmp_path):
  """Tasks are drawn at random, so each has separate epochs."""
  with stream([mixed(tmp_path)]) as made:
    rows = take(made, 30)
  for task in (1, 2, 3):
    shown = [number for number, k, _ in rows if k == task]
    for epoch in range(len(shown) // 8):
      assert sorted(shown[epoch * 8:epoch * 8 + 8]) == list(range(task - 1, 24, 3))
    assert shown[:8] != shown[8:16]


def test_weights_of_tasks_and_sources(tmp_path):
  """A draw chooses the task, then a source that has it."""
  one = mixed(tmp_path / 'a')
  other = fabricated.write_jsonl(tmp_path / 'b', [{'caption': 'other'}] * 5, first=100)
  config = ImageTextConfig(tasks=TaskWeights(caption=2, vqa=1, match=0), weights=(1, 3), shuffle_images=8)
  with stream([one, other], config, batch_size=50) as made:
    rows = take(made, 40)
  tasks = collections.Counter(task for _, task, _ in rows)
  assert set(tasks) == {1, 2} and abs(tasks[1] / 2000 - 2 / 3) < 0.04
  captions = [target for _, task, target in rows if task == 1]
  assert abs(captions.count('other') / len(captions) - 3 / 4) < 0.04


def test_the_order_is_that_of_the_seed(tmp_path):
  name = mixed(tmp_path)
  made = []
  for seed, threads in ((1, 1), (1, 3), (2, 1)):
    with stream([name], ImageTextConfig(shuffle_images=8, threads=threads), seed=seed) as one:
      made.append(take(one, 12))
  assert made[0] == made[1] != made[2]


def test_resumes_at_the_next_pair(tmp_path):
  name = mixed(tmp_path)
  with stream([name]) as made:
    before, state, after = take(made, 7), made.state(), take(made, 9)
  with stream([name]) as again:
    again.restore(state)
    assert take(again, 9) == after != before
    assert again.state()['draws'] == 64


def test_a_position_costs_one_group_however_far(tmp_path, monkeypatch):
  from rtjax.data.image_text import file_source
  name = mixed(tmp_path)
  with stream([name]) as made:
    take(made, 40)
    state = made.state()
  read = []
  original = file_source.FileSource.read
  monkeypatch.setattr(file_source.FileSource, 'read', lambda self, chunks: (
      (read.append(image.source), image)[1] for image in original(self, chunks)))
  with stream([name]) as again:
    again.restore(state)
    next(again)
  assert len(read) <= 3 * 2 * 8  # for each of three tasks a group in use, and one read ahead


def test_another_place_is_refused(tmp_path):
  with stream([mixed(tmp_path)]) as made:
    next(made)
    state = made.state()
  for sources, changed in (([mixed(tmp_path, 21)], {}), ([str(tmp_path)], {'seed': 2})):
    with stream(sources, **changed) as other, pytest.raises(ValueError, match='saved with other settings'):
      other.restore(state)


def test_each_process_has_its_own_part(tmp_path):
  name = mixed(tmp_path)
  parts = []
  for index in range(2):
    with stream([name], process_index=index, process_count=2, batch_size=2) as made:
      rows = take(made, 30)
    parts.append({task: [n for n, k, _ in rows if k == task][:4] for task in (1, 2, 3)})
  for task in (1, 2, 3):
    assert sorted(parts[0][task] + parts[1][task]) == list(range(task - 1, 24, 3))


def test_validation_shows_all_once_in_order(tmp_path):
  mixed(tmp_path, 3)
  name = mixed(tmp_path, 10, 'val', first=50)
  batches = list(validation_batches([name], CONFIG, TOKENIZER, SHAPES, batch_size=4))
  assert [b['images'].shape[0] for b in batches] == [4, 4, 4]
  rows = take(batches, 3)
  assert [n for n, k, _ in rows if k >= 0] == sorted(range(50, 60), key=lambda i: (i % 3, i))
  assert [k for *_, k in rows[10:]] == ['', ''] and (batches[2]['images'][2:] == 0).all()
  assert (batches[2]['tasks'][2:] == -1).all() and (batches[2]['prompts'][2:] == PAD).all()
  halves = [list(validation_batches([name], CONFIG, TOKENIZER, SHAPES, batch_size=2, process_index=i, process_count=2))
            for i in range(2)]
  joined = [np.concatenate([h[i]['targets'] for h in halves]) for i in range(3)]
  np.testing.assert_array_equal(np.stack(joined), np.stack([b['targets'] for b in batches]))


def test_images_of_any_size_are_resized(tmp_path):
  folder = tmp_path / 'images'
  name = fabricated.write_jsonl(tmp_path, [{'caption': 'x'}])
  (folder / '0.png').write_bytes(fabricated.encoded(200, (40, 20), 'JPEG'))  # despite the suffix
  with stream([name], batch_size=1) as made:
    image = next(made)['images'][0]
  assert (image[:, :3] == 0).all() and (image[:, 7:] == 0).all()  # 8 x 4, padded to 8 x 10
  assert np.abs(image[:, 3:7, 0].astype(int) - 200).max() < 6


def test_bad_images_are_named(tmp_path):
  for bad in (b'', b'no image', fabricated.encoded(1)[:40], fabricated.encoded(1, encoding='GIF')):
    name = fabricated.write_jsonl(tmp_path, [{'caption': 'x'}])
    (tmp_path / 'images/0.png').write_bytes(bad)
    with stream([name]) as made:
      with pytest.raises(ValueError, match=r'line 1 \(images/0.png\): the image cannot be decoded'):
        next(made)
      with pytest.raises(ValueError, match='this stream is closed'):
        next(made)


def test_a_text_that_is_too_long_is_named(tmp_path):
  for fields, what in (({'caption': 'word ' * 50}, 'target'), ({'question': 'why ' * 50, 'answer': 'x'}, 'prompt')):
    with stream([fabricated.write_jsonl(tmp_path, [fields])]) as made, pytest.raises(
        ValueError, match=rf'line 1 .*the {what} is too long: .*tokens.*at most {24 if what == "prompt" else 12}'):
      next(made)


def test_a_missing_image(tmp_path):
  name = fabricated.write_jsonl(tmp_path, [{'caption': 'x'}])
  with stream([name]) as made:
    (tmp_path / 'images/0.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'images/0.png'):
      next(made)


def test_bad_settings(tmp_path):
  name = mixed(tmp_path, 3)
  for sources, config, changed, words in (
      ('one', CONFIG, {}, 'expected a list'), ([], CONFIG, {}, 'expected a list'),
      ([name], ImageTextConfig(weights=(1, 2)), {}, '2 weights .* for 1 sources'),
      ([name], CONFIG, {'batch_size': 0}, 'batch_size is 0'),
      ([name], CONFIG, {'process_count': 2}, 'process_count is 2'),
      ([fabricated.write_jsonl(tmp_path / 'c', [{'caption': 'x'}])], ImageTextConfig(tasks=TaskWeights(0, 1, 1)), {},
       r"have the tasks \['caption'\], all of which have weight 0")):
    with pytest.raises(ValueError, match=words):
      stream(sources, config, **changed)
  with pytest.raises(ValueError, match='expected'):
    TextShapes((0, 5), 4, 4)
