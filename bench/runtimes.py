"""Policy steps of rtjax, ONNX Runtime and OpenVINO, in turn.

    pip install 'rtjax[export]' openvino
    python bench/runtimes.py [--model rt1] [--rounds 40] [--profile]

Exports a network with random weights to ONNX, in float32, and gives each runtime the same images and cores, with its
defaults for low latency. Other work on the machine slows all alike: only the ratios count. Prints a line of JSON per
runtime: seconds, quartiles of rtjax's seconds over its own, FLOP/s as a share of the rate of a matrix product in the
same run, and the largest difference of its logits from rtjax's. --profile adds milliseconds of its dearest kinds of
operation, summed over threads; it slows the steps, so that their times count only without it.
"""
import collections
import dataclasses
import json
import pathlib
import re
import tempfile
import time
from collections.abc import Callable
from typing import Literal

import jax
import numpy as np
import onnxruntime
import openvino
import tyro
from machine import describe, matmul_gflops
from steps import CAMERA, cost

from rtjax.export import onnx
from rtjax.export.step import Step
from rtjax.models import RT1_X, PolicyModel, RT1Config, build
from rtjax.policies.policy import BatchPolicy
from rtjax.runtime import malloc

Arrays = dict[str, np.ndarray]
Milliseconds = dict[str, float]  # by kind of operation

_REST_S = 0.02  # between steps, in which waiting threads of the last runtime go to sleep
_PROFILED = 10  # steps


class Rtjax:
  """The policy that `rtjax.load_policy` returns."""

  def __init__(self, model: PolicyModel, embedding: np.ndarray):
    self._policy = BatchPolicy(model, 1)
    self._policy.reset(0, embedding=embedding)

  def __call__(self, image: np.ndarray) -> np.ndarray:
    return self._policy.step(image[None])[0].logits

  def operations(self, images: np.ndarray) -> Milliseconds:
    found: Milliseconds = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
      with jax.profiler.trace(folder):
        for number in range(_PROFILED):
          self(images[number % len(images)])
      (file,) = pathlib.Path(folder).rglob('*.xplane.pb')
      for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
          for event in line.events:
            if 'hlo_op' in dict(event.stats):
              found[re.sub(r'[.\d]+$', '', event.name)] += event.duration_ns / 1e6 / _PROFILED
    return found


class Exported:
  """An ONNX graph in another runtime, with its own cache."""

  def __init__(self, path: pathlib.Path, step: Step, embedding: np.ndarray, profile: bool):
    self._embedding = embedding
    self._cache = {f'cache_{name}': value for name, value in step.cache.items()}
    # OpenVINO gives outputs several names, or none: they are known by their order.
    self._names = [output.name for output in onnxruntime.InferenceSession(path).get_outputs()]
    self._load(path, profile)

  def __call__(self, image: np.ndarray) -> np.ndarray:
    inputs = self._cache | {'images': image[None], 'embeddings': self._embedding[None]}
    outputs = dict(zip(self._names, self._run(inputs), strict=True))
    self._cache = {name: outputs[f'next_{name}'] for name in self._cache}
    return outputs['logits'][0]

  def _load(self, path: pathlib.Path, profile: bool) -> None:
    raise NotImplementedError

  def _run(self, inputs: Arrays) -> list[np.ndarray]:
    raise NotImplementedError

  def operations(self, images: np.ndarray) -> Milliseconds:
    raise NotImplementedError


class OnnxRuntime(Exported):

  def _load(self, path: pathlib.Path, profile: bool) -> None:
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = profile, str(path.with_name('profile'))
    self._session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])

  def _run(self, inputs: Arrays) -> list[np.ndarray]:
    return self._session.run(self._names, inputs)

  def operations(self, images: np.ndarray) -> Milliseconds:
    events = json.loads(pathlib.Path(self._session.end_profiling()).read_text())
    steps = sum(event['name'] == 'model_run' for event in events)
    found: Milliseconds = collections.Counter()
    for event in events:
      if event.get('cat') == 'Node' and event['name'].endswith('_kernel_time'):
        found[event['args']['op_name']] += event['dur'] / 1e3 / steps
    return found


class OpenVino(Exported):

  def _load(self, path: pathlib.Path, profile: bool) -> None:
    core = openvino.Core()
    graph = core.read_model(path)
    graph.reshape({each.any_name: [1, *(side.get_length() for side in each.partial_shape[1:])]
                   for each in graph.inputs})
    # Where a processor has bfloat16, OpenVINO's default is to compute in it.
    compiled = core.compile_model(graph, 'CPU', {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': 'f32',
                                                 'PERF_COUNT': profile})
    self._request = compiled.create_infer_request()

  def _run(self, inputs: Arrays) -> list[np.ndarray]:
    self._request.infer(inputs)
    return [tensor.data.copy() for tensor in self._request.output_tensors]

  def operations(self, images: np.ndarray) -> Milliseconds:
    found: Milliseconds = collections.Counter()
    for number in range(_PROFILED):
      self(images[number % len(images)])
      for part in self._request.get_profiling_info():
        found[part.node_type] += part.real_time.total_seconds() * 1e3 / _PROFILED
    return found


def main(model: Literal['rt1', 'rt1_x'] = 'rt1', rounds: int = 40, profile: bool = False) -> None:
  malloc.keep_freed_memory()  # as eval.py and the server do
  network = build({'rt1': RT1Config(), 'rt1_x': dataclasses.replace(RT1_X, dtype='float32')}[model], seed=0)
  step, random = Step(network, CAMERA), np.random.default_rng(0)
  embedding = random.normal(size=network.config.embedding_size).astype(np.float32)
  images = random.integers(0, 256, (8, *CAMERA, 3), dtype=np.uint8)
  with tempfile.TemporaryDirectory() as folder:
    onnx.save(step, pathlib.Path(folder), False)
    graph = pathlib.Path(folder) / 'policy.onnx'
    runs = {'rtjax': Rtjax(network, embedding), 'onnxruntime': OnnxRuntime(graph, step, embedding, profile),
            'openvino': OpenVino(graph, step, embedding, profile)}
    logits = {name: [run(image) for image in images][-1] for name, run in runs.items()}
    times = [timed(runs, images[number % len(images)]) for number in range(rounds)]
    dearest = {name: largest(run.operations(images)) for name, run in runs.items()} if profile else {}
  gflop, rate = cost(jax.jit(step).lower(step.weights, *step.shapes(1)))['flops'] / 1e9, matmul_gflops()
  for name in runs:
    seconds = np.array([turn[name] for turn in times])
    ratios = np.quantile([turn['rtjax'] / turn[name] for turn in times], (0.25, 0.5, 0.75))
    print(json.dumps({
        'benchmark': 'runtimes', 'model': model, 'runtime': name, 'median_s': round(float(np.median(seconds)), 4),
        'min_s': round(float(seconds.min()), 4), 'rtjax_over_this': np.round(ratios, 2).tolist(),
        'gflop': round(gflop, 2), 'share_of_matmul': round(gflop / float(np.median(seconds)) / rate, 2),
        'matmul_gflops': round(rate), 'difference': float(f'{np.abs(logits[name] - logits["rtjax"]).max():.2g}'),
        'largest_logit': round(float(np.abs(logits['rtjax']).max()), 2),
        **({'ms': dearest[name]} if profile else {}), **describe()}), flush=True)


def timed(runs: dict[str, Callable[[np.ndarray], np.ndarray]], image: np.ndarray) -> dict[str, float]:
  """Return the seconds of one step of each."""
  found = {}
  for name, run in runs.items():
    time.sleep(_REST_S)
    start = time.perf_counter()
    run(image)
    found[name] = time.perf_counter() - start
  return found


def largest(times: Milliseconds, count: int = 8) -> Milliseconds:
  return {kind: round(times[kind], 2) for kind in sorted(times, key=lambda kind: -times[kind])[:count]}


if __name__ == '__main__':
  tyro.cli(main)
