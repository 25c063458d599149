"""Generated image-text sources; the pixels of an image encode its number."""
import io
import json
import pathlib
import tarfile
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

SIZE = (8, 10)

LINES = [
    {'caption': 'a red cube '}, {'question': 'how many?', 'answer': '3'}, {'caption': 'a can', 'answer': 'no'},
    {'prompt': 'Count!', 'answer': '2'}]


def pixels(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
  return np.broadcast_to(np.uint8([number, 255 - number, 7]), (*size, 3))


def encoded(number: int, size: tuple[int, int] = SIZE, encoding: str = 'PNG') -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(pixels(number, size)).save(buffer, encoding)
  return buffer.getvalue()


def write_jsonl(folder: pathlib.Path, lines: list[Any], split: str = 'train', first: int = 0) -> str:
  """Write a line per entry: fields of an image, or raw text."""
  (folder / 'images').mkdir(parents=True, exist_ok=True)
  out = []
  for number, line in enumerate(lines, first):
    (folder / f'images/{number}.png').write_bytes(encoded(number))
    out.append(line if isinstance(line, str) else json.dumps({'image': f'images/{number}.png'} | line))
  (folder / f'{split}.jsonl').write_text('\n'.join(out) + '\n')
  return str(folder)


def write_tar(file: pathlib.Path, members: dict[str, bytes]) -> None:
  file.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(file, 'w') as tar:
    for name, content in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))


def write_tfds(folder: pathlib.Path, name: str, features: dict[str, Any], examples: list[dict[str, Any]],
               split: str = 'train', shards: int = 1, metadata: dict[str, Any] | None = None) -> str:
  builder = tfds.dataset_builders.store_as_tfds_dataset(
      name, '1.0.0', tfds.features.FeaturesDict(features), {split: list(enumerate(examples))}, data_dir=folder,
      disable_shuffling=True, download_config=tfds.download.DownloadConfig(num_shards=shards))
  if metadata:
    (pathlib.Path(builder.data_dir) / 'metadata.json').write_text(json.dumps(metadata))
  return str(builder.data_dir)


TEXT, INT = np.str_, np.int64
COCO = {
    'image': tfds.features.Image(encoding_format='jpeg'), 'image/filename': tfds.features.Text(), 'image/id': INT,
    'objects': tfds.features.Sequence({
        'id': INT, 'area': INT, 'bbox': tfds.features.BBoxFeature(),
        'label': tfds.features.ClassLabel(names=['person', 'cat']), 'is_crowd': np.bool_}),
    'captions': tfds.features.Sequence({'text': TEXT, 'id': INT})}
CLEVR = {
    'image': tfds.features.Image(), 'file_name': tfds.features.Text(),
    'question_answer': tfds.features.Sequence({'question': tfds.features.Text(), 'answer': tfds.features.Text()})}
LAION = {'image': tfds.features.Image(), 'caption': tfds.features.Text(), 'url': tfds.features.Text(),
         'similarity': tfds.features.Scalar(np.float64)}
QUESTIONS = {'image': tfds.features.Image(), 'question': tfds.features.Text(), 'answer': tfds.features.Text()}
TABLETOP = {'image': tfds.features.Image(shape=(*SIZE, 3)), 'pairs': tfds.features.Sequence({
    'kind': tfds.features.Text(), 'question': tfds.features.Text(), 'answer': tfds.features.Text()})}


def coco(number: int, *captions: str) -> dict[str, Any]:
  return {'image': pixels(number), 'image/filename': f'{number}.jpg', 'image/id': number,
          'objects': [{'id': 1, 'area': 2, 'bbox': tfds.features.BBox(0.0, 0.0, 1.0, 1.0), 'label': 'cat',
                       'is_crowd': False}],
          'captions': [{'text': text, 'id': i} for i, text in enumerate(captions)]}
