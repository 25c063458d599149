"""Training, from a configuration to a folder of checkpoints.

The resume rule. The same command again goes on from the newest whole checkpoint of the run's folder, with the very next
batch, and ends with the same bits as a run that nothing stopped. A checkpoint is written every `save_every` steps, at
the end, and on SIGTERM or Ctrl-C. A damaged one is passed over with a warning. What the parameters depend on has to be
as it was: the configuration (config.FREE lists the exceptions) and the number of processes. A folder without a
checkpoint starts from the beginning, from random weights or from `init_from`, which plays no part in a resume.

One model or another: the loop only knows `models.build` and the model's `loss`, see rtjax.models.LossTerms.
"""
import contextlib
import dataclasses
import functools
import importlib
import json
import pathlib
import signal
import threading
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rtjax import models
from rtjax.data.augment import augment
from rtjax.models import RT2Config, vocabulary
from rtjax.runtime import compiler
from rtjax.training import cotrain, distill, initialize, lineage, metrics, sharding
from rtjax.training import optimizer as optimizers
from rtjax.training.checkpoint import Checkpoints, is_checkpoint
from rtjax.training.config import TrainConfig, check_same_run
from rtjax.training.input import Batches
from rtjax.training.state import TrainState, Tree, count, create, merge, split
from rtjax.training.step import eval_step, train_step

_PRUNE_ON = 4  # batches that tell which heads and layers are important


class TrainingError(RuntimeError):
  """Training cannot go on; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a run ended.

  Attributes:
    run: its folder.
    step: steps taken in all.
    finished: False if a signal stopped it; the same command then resumes.
    best_step: step of the checkpoint with the least validation loss, if any was validated.
    row: the last row of metrics and of validation metrics.
  """
  run: pathlib.Path
  step: int
  finished: bool
  best_step: int | None
  row: metrics.Row


def train(config: TrainConfig, *, data: Any = None) -> Outcome:
  """Trains, or resumes; see the module's docstring.

  Args:
    config: the run.
    data: what gives the batches; by default rtjax.data, or anything with its functions.

  Raises:
    ValueError, FileNotFoundError: for a configuration or data that cannot be trained with.
    TrainingError: for a loss or gradient that is not finite.
    CheckpointError: if a checkpoint cannot be written, or none of those there can be read.
  """
  sharding.connect_processes(config.distributed)
  mesh = sharding.make_mesh(config.mesh)
  sharding.check_batch(config.batch_size, config.micro_batches, mesh)
  if config.data and config.image_text:
    sharding.check_batch(config.image_text_batch_size, config.micro_batches, mesh, 'image_text_batch_size')
  tokenizer = None
  if isinstance(config.model, RT2Config):
    tokenizer = lineage.open_vocabulary(config)
    config = dataclasses.replace(config, model=vocabulary.fitted(config.model, tokenizer))
  run = _run_folder(config)
  optimizer = optimizers.build(config.optimizer, config.steps)
  graphdef, target = _target(config, optimizer, mesh)

  data = data or importlib.import_module('rtjax.data')  # brings TensorFlow
  with Batches(config, data, mesh, tokenizer) as batches, Checkpoints(run, keep=config.keep) as checkpoints:
    if restored := checkpoints.restore(target):
      state, metadata = restored
      batches.restore(metadata['data'])
      known: dict[str, Any] = {name: metadata[name] for name in ('vocabulary', 'origin') if name in metadata}
    else:
      state = _first_state(config, optimizer, target, mesh, batches)
      known = {'vocabulary': vocabulary.stored(tokenizer), 'origin': lineage.describe(config)} if tokenizer else {}
    _write_config(config, run)
    try:
      return _run(config, run, mesh, batches, checkpoints, graphdef, optimizer, state, known)
    except metrics.NonFinite as error:
      checkpoints.wait()
      raise TrainingError(
          f'{error}. The last good checkpoint is of step {checkpoints.latest} in {checkpoints.folder}. Look at the '
          'data and the learning rate, or leave such steps out with --non-finite skip.') from None


def _run(config: TrainConfig, run: pathlib.Path, mesh: Mesh, batches: Batches, checkpoints: Checkpoints,
         graphdef: nnx.GraphDef, optimizer: optax.GradientTransformation, state: TrainState,
         known: dict[str, Any]) -> Outcome:
  start = step = int(state.step)
  layout = jax.tree.map(lambda leaf: leaf.sharding, state)
  replicated = NamedSharding(mesh, PartitionSpec())
  teacher, soften = None, None
  if config.teacher:
    definition, teacher = distill.load_teacher(config.teacher, config.model, mesh)
    soften = functools.partial(distill.soften, graphdef=definition, weight=config.teacher_weight)
  take_step = jax.jit(functools.partial(
      train_step, graphdef=graphdef, optimizer=optimizer, micro_batches=config.micro_batches,
      ema_decay=config.optimizer.ema_decay, soften=soften,
      balance=functools.partial(cotrain.balance, weight=config.vqa_weight) if config.image_text else None,
      augment=functools.partial(augment, config=config.augment, action_spec=config.model.action_spec)
      if config.data else None),
      donate_argnums=0, out_shardings=(layout, replicated), compiler_options=compiler.options())
  judge = jax.jit(functools.partial(eval_step, graphdef=graphdef), out_shardings=replicated)
  loss_scale = merge(graphdef, state.params, state.batch_stats, state.constants).loss_scale(config.batch_size)
  learning_rate = optimizers.schedule(config.optimizer, config.steps)

  meter = metrics.Meter(config.batch_size, skip=config.non_finite == 'skip')
  log = metrics.Log(run, start=start, tensorboard=config.tensorboard, wandb=config.wandb, config=config.to_dict())
  progress = metrics.Progress(config.steps, config.batch_size, start)
  row: metrics.Row = {}
  stopped = False
  with contextlib.closing(log), progress, _Signals() as signals:
    progress.say(_greeting(config, state, mesh, run, start))
    while step < config.steps and not stopped:
      state, outputs = take_step(state, batches.next(), teacher)
      step += 1
      meter.push(step, outputs)
      progress.step(step)
      stopped = signals.arrived(step)
      last = stopped or step == config.steps

      if step % config.log_every == 0 or last:
        row = meter.row() | {'learning_rate': float(learning_rate(step - 1))}
        log.write(step, row)
        progress.row(step, row)

      validated: metrics.Row = {}
      if config.validate_every and (step % config.validate_every == 0 or step == config.steps):
        with meter.paused():
          validated = batches.validate(functools.partial(judge, state), loss_scale)
        progress.validation(step, validated)
        named = {f'validation/{name}': value for name, value in validated.items()}
        log.write(step, named)
        row |= named

      if step % config.save_every == 0 or last:
        meter.settle()  # never a checkpoint after a step that was not finite
        with meter.paused():
          checkpoints.save(state, {
              'config': config.model.to_dict(), 'train': config.to_dict(), 'statistics': batches.statistics,
              'embedding_id': batches.embedding_id, 'data': batches.position(), 'metrics': row} | known,
              validated or None)
    checkpoints.wait()
  return Outcome(run, step, not stopped, checkpoints.best, row)


def _run_folder(config: TrainConfig) -> pathlib.Path:
  """The run's folder; if it holds checkpoints, they have to be of this configuration."""
  run = pathlib.Path(config.output).expanduser().resolve()
  if run.exists() and not run.is_dir():
    raise ValueError(f'output {run} is a file; expected a folder, or nothing there yet.')
  if is_checkpoint(run):
    if not (run / 'config.json').exists():
      raise ValueError(f'output {run} holds checkpoints and no config.json, which says what run they are of. Choose '
                       'another folder, or remove this one; to start from its weights, name it with --init-from.')
    check_same_run(json.loads((run / 'config.json').read_text()), config, run)
  return run


def _write_config(config: TrainConfig, run: pathlib.Path) -> None:
  if jax.process_index() == 0:
    run.mkdir(parents=True, exist_ok=True)
    unfinished = run / 'config.tmp'
    unfinished.write_text(json.dumps(config.to_dict(), indent=2) + '\n')
    unfinished.replace(run / 'config.json')
  sharding.wait_for_all('config.json is written')


def _target(config: TrainConfig, optimizer: optax.GradientTransformation,
            mesh: Mesh) -> tuple[nnx.GraphDef, TrainState]:
  """The model's definition, and shapes, types and shardings of the state."""
  graphdef, *trees = split(models.abstract(config.model), config.trains)
  state = jax.eval_shape(_creator(config, optimizer), *trees)
  return graphdef, jax.tree.map(lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
                                state, sharding.shardings(state, mesh))


def _first_state(config: TrainConfig, optimizer: optax.GradientTransformation, target: TrainState, mesh: Mesh,
                 batches: Batches) -> TrainState:
  model = models.build(config.model, rngs=nnx.Rngs(config.seed))
  vision_language = isinstance(config.model, RT2Config)
  if not vision_language:
    initialize.standardize(model, batches.statistics)
  if config.init_from:
    report = initialize.start_from(model, config.init_from, batches.sample(_PRUNE_ON) if config.prune else None)
    if jax.process_index() == 0:
      print(report)
  for part, folder in (('vision', config.vision_from), ('text', config.text_from)):
    if folder:
      report = lineage.fill_part(model, part, folder)
      if jax.process_index() == 0:
        print(report)
  if vision_language and config.data:  # at last: what stage 1 kept is of no robot
    initialize.standardize(model, batches.statistics)
  _, *trees = split(model, config.trains)
  layout = jax.tree.map(lambda leaf: leaf.sharding, target)
  return jax.jit(_creator(config, optimizer), out_shardings=layout)(*[sharding.place(tree, mesh) for tree in trees])


def _creator(config: TrainConfig, optimizer: optax.GradientTransformation) -> Callable[..., TrainState]:
  def creator(params: Tree, batch_stats: Tree, constants: Tree) -> TrainState:
    return create(params, batch_stats, constants, jax.random.key(config.seed), optimizer=optimizer,
                  ema=config.optimizer.ema_decay > 0)
  return creator


def _greeting(config: TrainConfig, state: TrainState, mesh: Mesh, run: pathlib.Path, start: int) -> str:
  how = ', '.join(f'{size} {axis}' for axis, size in mesh.shape.items() if size > 1)
  devices = f'{jax.device_count()} {jax.devices()[0].device_kind}{f" ({how})" if how else ""}'
  if start == config.steps:
    return f'{run} has all its {start} steps already'
  size = f'{count(state.params) / 1e6:.1f} M parameters'
  if config.trainable != 'full':
    size += f' of {(count(state.params) + count(state.constants)) / 1e6:.1f} M'
  return f'{run}: {size}, {devices}, {f"resumes at step {start} of" if start else "starts,"} {config.steps} steps'


class _Signals:
  """Notices SIGTERM and Ctrl-C, so that the loop can save and end; a second Ctrl-C ends at once.

  With several processes only SIGTERM counts, and JAX brings all of them to stop at the same step.
  """

  def __init__(self) -> None:
    self._arrived = False
    self._handlers: dict[signal.Signals, Any] = {}

  def __enter__(self) -> '_Signals':
    in_main_thread = threading.current_thread() is threading.main_thread()
    if jax.process_count() == 1 and in_main_thread:
      self._handlers = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
    return self

  def _note(self, number: int, frame: Any) -> None:
    self._arrived = True
    signal.signal(signal.SIGINT, signal.default_int_handler)

  def arrived(self, step: int) -> bool:
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._arrived

  def __exit__(self, *_: Any) -> None:
    for number, handler in self._handlers.items():
      signal.signal(number, handler)
