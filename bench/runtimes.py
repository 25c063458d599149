"""Policy steps of rtjax, ONNX Runtime and OpenVINO, in turn.

    pip install 'rtjax[export]' openvino
    python bench/runtimes.py [--model rt1] [--rounds 40] [--profile]

Exports a network with random weights to ONNX, in float32. Each runtime has a process of its own, with its defaults for
low latency, and they take steps in turn on the same images and cores: other work on the machine slows all alike, and
only the ratios count. Prints a line of JSON per runtime: seconds, quartiles of rtjax's seconds over its own, FLOP/s as
a share of the rate of a matrix product in the same run, and the largest difference of its logits from rtjax's.
--profile adds milliseconds of its dearest kinds of operation, summed over threads; it slows the steps, so that their
times count only without it.
"""
import abc
import collections
import dataclasses
import json
import multiprocessing
import pathlib
import re
import tempfile
import time
from multiprocessing.connection import Connection
from typing import Literal, Protocol

import jax
import numpy as np
import tyro
from machine import describe, matmul_gflops
from steps import CAMERA, cost

from rtjax.models import RT1_X, PolicyModel, RT1Config, build
from rtjax.runtime import malloc

Arrays = dict[str, np.ndarray]
Milliseconds = dict[str, float]  # by kind of operation

_REST_S = 0.02  # between steps, in which waiting threads of the last runtime go to sleep
_PROFILED = 10  # steps
_MODELS = {'rt1': RT1Config(), 'rt1_x': dataclasses.replace(RT1_X, dtype='float32')}


class Runtime(Protocol):

  def __call__(self, image: np.ndarray) -> np.ndarray:
    """Return the logits of the next step."""

  def operations(self, images: np.ndarray) -> Milliseconds:
    """Return the time of a step by kind of operation."""


class Rtjax:
  """The policy that `rtjax.load_policy` returns."""

  def __init__(self, model: PolicyModel, embedding: np.ndarray):
    from rtjax.policies.policy import BatchPolicy
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


class Exported(abc.ABC):
  """An ONNX graph in another runtime, with its own cache."""

  def __init__(self, folder: pathlib.Path, embedding: np.ndarray, profile: bool):
    import onnxruntime
    self._embedding = embedding
    self._cache = {f'cache_{name}': value for name, value in np.load(folder / 'cache.npz').items()}
    # OpenVINO gives outputs several names, or none: they are known by their order.
    self._names = [output.name for output in onnxruntime.InferenceSession(folder / 'policy.onnx').get_outputs()]
    self._load(folder / 'policy.onnx', profile)

  def __call__(self, image: np.ndarray) -> np.ndarray:
    inputs = self._cache | {'images': image[None], 'embeddings': self._embedding[None]}
    outputs = dict(zip(self._names, self._run(inputs), strict=True))
    self._cache = {name: outputs[f'next_{name}'] for name in self._cache}
    return outputs['logits'][0]

  @abc.abstractmethod
  def _load(self, path: pathlib.Path, profile: bool) -> None:
    """Read the graph."""

  @abc.abstractmethod
  def _run(self, inputs: Arrays) -> list[np.ndarray]:
    """Return the outputs in the graph's order."""


class OnnxRuntime(Exported):

  def _load(self, path: pathlib.Path, profile: bool) -> None:
    import onnxruntime
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
    import openvino
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


_OTHERS = {'onnxruntime': OnnxRuntime, 'openvino': OpenVino}
_NAMES = 'rtjax', *_OTHERS


def open_runtime(name: str, model: str, folder: pathlib.Path, profile: bool) -> Runtime:
  embedding = np.random.default_rng(1).normal(size=_MODELS[model].embedding_size).astype(np.float32)
  if name != 'rtjax':
    return _OTHERS[name](folder, embedding, profile)
  malloc.keep_freed_memory()  # as eval.py and the server do
  return Rtjax(build(_MODELS[model], seed=0), embedding)


def work(pipe: Connection, name: str, model: str, folder: pathlib.Path, profile: bool) -> None:
  """Take a step for each image that arrives, in a process.

  Each answer is seconds and logits; after the last image, None, it is the profile.
  """
  run, images = open_runtime(name, model, folder, profile), random_images()
  while (image := pipe.recv()) is not None:
    start = time.perf_counter()
    logits = run(image)
    pipe.send((time.perf_counter() - start, logits))
  pipe.send(run.operations(images) if profile else {})


def random_images() -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, (8, *CAMERA, 3), dtype=np.uint8)


def export(model: str, folder: pathlib.Path) -> float:
  """Write the graph; return the FLOP of a step by XLA's count."""
  from rtjax.export import onnx
  from rtjax.export.step import Step
  step = Step(build(_MODELS[model], seed=0), CAMERA)
  onnx.save(step, folder, False)
  return cost(jax.jit(step).lower(step.weights, *step.shapes(1)))['flops']


def main(model: Literal['rt1', 'rt1_x'] = 'rt1', rounds: int = 40, profile: bool = False) -> None:
  processes, images = multiprocessing.get_context('spawn'), random_images()
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    gflop = export(model, folder) / 1e9
    pipes = {}
    for name in _NAMES:
      pipes[name], theirs = processes.Pipe()
      processes.Process(target=work, args=(theirs, name, model, folder, profile), daemon=True).start()
    for image in images:
      first = {name: step(pipe, image)[1] for name, pipe in pipes.items()}
    turns = [{name: step(pipe, images[turn % len(images)])[0] for name, pipe in pipes.items()}
             for turn in range(rounds)]
    for pipe in pipes.values():
      pipe.send(None)
    profiles = {name: pipe.recv() for name, pipe in pipes.items()}
  rate = matmul_gflops()
  for name in _NAMES:
    times = np.array([turn[name] for turn in turns])
    ratios = np.quantile([turn['rtjax'] / turn[name] for turn in turns], (0.25, 0.5, 0.75))
    print(json.dumps({
        'benchmark': 'runtimes', 'model': model, 'runtime': name, 'median_s': round(float(np.median(times)), 4),
        'min_s': round(float(times.min()), 4), 'rtjax_over_this': np.round(ratios, 2).tolist(),
        'gflop': round(gflop, 2), 'share_of_matmul': round(gflop / float(np.median(times)) / rate, 2),
        'matmul_gflops': round(rate), 'difference': float(f'{np.abs(first[name] - first["rtjax"]).max():.2g}'),
        'largest_logit': round(float(np.abs(first['rtjax']).max()), 2),
        **({'ms': dearest(profiles[name])} if profile else {}), **describe()}), flush=True)


def step(pipe: Connection, image: np.ndarray) -> tuple[float, np.ndarray]:
  """Take a step in a runtime's process; return its seconds and logits."""
  time.sleep(_REST_S)
  pipe.send(image)
  return pipe.recv()


def dearest(times: Milliseconds, count: int = 8) -> Milliseconds:
  return {kind: round(times[kind], 2) for kind in sorted(times, key=lambda kind: -times[kind])[:count]}


if __name__ == '__main__':
  tyro.cli(main)
