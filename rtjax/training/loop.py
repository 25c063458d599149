"""Training loop, from a configuration to a folder of checkpoints.

The resume rule. The same command again resumes from the newest complete checkpoint of the run's folder, with the very
next batch, and ends with the same bits as an uninterrupted run. A checkpoint is written every `checkpoints.every`
steps, at the end, and on SIGTERM or Ctrl-C. A damaged one is skipped with a warning. Everything that the parameters
depend on must stay the same: the configuration (config.FREE lists the exceptions) and the contents of the datasets,
which may lie elsewhere. The number of steps may grow: the learning rate then goes on by the schedule of the longer run.
Devices and processes may be others, which read the same batches (share.py): the numbers are then the same up to the
order of their sums. A folder without a checkpoint starts from the beginning, from random weights or from
`init.weights`, which has no part in a resume. One run at a time trains into a folder (lock.py).

The loop knows the contract of a model alone (rtjax/models/base.py).
"""
import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rtjax import data as rlds_data
from rtjax import models
from rtjax.data.augment import augment
from rtjax.models import PolicyModel, parameters
from rtjax.models.layers import initializers
from rtjax.runtime import compiler, serialization
from rtjax.training import distill, initialize, lineage, lock, memory, processes, replicas, run_folder, sharding
from rtjax.training import optimizer as optimizers
from rtjax.training.checkpoint import RunCheckpoints
from rtjax.training.config import TrainConfig
from rtjax.training.input import TrainingInput
from rtjax.training.log import MetricsLog, Progress
from rtjax.training.meter import Meter, NonFiniteError, Row
from rtjax.training.profile import Profile
from rtjax.training.signals import Signals
from rtjax.training.state import TrainState, Tree, create, merge, split, with_dtype
from rtjax.training.step import eval_step, train_step

_PRUNING_BATCHES = 4  # batches that measure the importance of heads and layers


class TrainingError(RuntimeError):
  """Training cannot go on; the message tells the remedy."""


@dataclasses.dataclass(frozen=True)
class Outcome:
  """End of a run.

  Attributes:
    run: folder of the run.
    step: steps taken in all.
    finished: False if a signal stopped the run; the same command then resumes.
    signal: its number, 0 if it is unknown.
    best_step: step of the checkpoint with the least validation loss, if any was validated.
    row: last row of metrics and of validation metrics.
  """
  run: pathlib.Path
  step: int
  finished: bool
  best_step: int | None
  row: Row
  signal: int = 0


def train(config: TrainConfig, *, data: Any = None) -> Outcome:
  """Train, or resume; see the module's docstring.

  Args:
    config: the run.
    data: rtjax.data (the default), or another object with its functions.

  Raises:
    ValueError, FileNotFoundError: the configuration or the data cannot be trained with.
    TrainingError: a loss or gradient is not finite.
    CheckpointError: a checkpoint cannot be written, or none of those present can be read.
    LockedError: another process trains into the folder.
  """
  processes.connect(config.mesh.distributed, config.mesh.timeout)
  run = pathlib.Path(config.output).expanduser().resolve()
  if run.exists() and not run.is_dir():
    raise ValueError(f'output {run} is a file; expected a folder, or a path that does not exist yet.')
  with processes.watched(config.mesh.timeout), lock.locked(run):
    return _train(config, run, data or rlds_data)


def _train(config: TrainConfig, run: pathlib.Path, data: Any) -> Outcome:
  mesh = sharding.make_mesh(config.mesh.shape)
  sharding.check_batch(config.batch_size, config.grad_accum_steps, mesh)
  if config.data and config.text and config.text.data:
    sharding.check_batch(config.text.batch_size, config.grad_accum_steps, mesh, 'text.batch_size')
  tokenizer = None
  if config.model.reads_prompts:
    tokenizer = lineage.open_tokenizer(config)
    config = dataclasses.replace(config, model=lineage.with_backbone(config))
    model_config = lineage.with_codec(config, data).with_tokenizer(tokenizer)
    config = dataclasses.replace(config, model=model_config)
  run_folder.check(config, run)
  optimizer = optimizers.build(config.optimizer, config.steps)
  model = models.abstract(config.model)
  graphdef, target = target_state(config, model, optimizer, mesh)

  with (TrainingInput(config, data, mesh, model, tokenizer) as batches,
        RunCheckpoints(run, keep=config.checkpoints.keep, verify=config.checkpoints.verify) as saves):
    take_step, teacher = training_step(config, graphdef, optimizer, target, mesh)
    steps_before = config.steps
    if restored := saves.restore(target):
      state, metadata = restored
      steps_before = metadata['train']['steps']
      if int(state.step) < config.steps < steps_before:
        raise ValueError(f'{run} is at step {state.step} of {steps_before}, and --steps is {config.steps}: steps may '
                         f'only grow. Set --steps {steps_before} or more.')
      batches.restore(metadata['data'], metadata['statistics'])
      if config.steps > steps_before and jax.process_index() == 0:
        print(optimizers.describe_longer(config.optimizer, int(state.step), steps_before, config.steps))
      if int(state.step) < config.steps:
        _require_memory(config, take_step, target, batches, teacher, mesh)
      language: dict[str, Any] = {name: metadata[name] for name in ('tokenizer', 'lineage') if name in metadata}
    else:
      _require_memory(config, take_step, target, batches, teacher, mesh)
      state = _initial_state(config, optimizer, target, mesh, batches)
      language = {'tokenizer': tokenizer.to_json(), 'lineage': lineage.describe(config)} if tokenizer else {}
    if config.steps >= steps_before:
      run_folder.write_config(config, run)
    try:
      return _run(config, run, mesh, batches, saves, graphdef, take_step, teacher, state, language)
    except NonFiniteError as error:
      saves.wait()
      raise TrainingError(
          f'{error}. The last good checkpoint is of step {saves.latest} in {saves.folder}. Check the data and the '
          'learning rate, or skip such steps with --non-finite skip.') from None


def _run(config: TrainConfig, run: pathlib.Path, mesh: Mesh, batches: TrainingInput, saves: RunCheckpoints,
         graphdef: nnx.GraphDef, take_step: Any, teacher: Tree, state: TrainState, language: dict[str, Any]) -> Outcome:
  start = step = int(state.step)
  replicated = NamedSharding(mesh, PartitionSpec())
  evaluate = jax.jit(sharding.on_mesh(functools.partial(eval_step, graphdef=graphdef), mesh), out_shardings=replicated)
  loss_scale = merge(graphdef, state.params, state.batch_stats, state.constants).loss_scale(config.batch_size)
  learning_rate = optimizers.schedule(config.optimizer, config.steps)

  config_json, model_json = serialization.to_json(config), models.config_to_json(config.model)
  meter = Meter(config.batch_size, skip=config.non_finite == 'skip')
  log = MetricsLog(run, start=start, tensorboard=config.logging.tensorboard, wandb=config.logging.wandb,
                   config=config_json)
  progress = Progress(config.steps, config.batch_size, start)
  row: Row = {}
  stopped = False
  with (contextlib.closing(log), progress, Profile(run / 'profile', start, config.logging.profile) as profile,
        Signals() as signals):
    progress.print(_greeting(config, state, mesh, run, start))
    train_on = compiler.announced('the training step', take_step, progress.print)
    validate_on = compiler.announced('the validation step', evaluate, progress.print)
    while step < config.steps and not stopped:
      profile.before(step)
      with meter.waiting_for_data(), jax.profiler.TraceAnnotation('waiting for data'):
        batch = batches.next()
      if step == start:
        _require_equal_copies((state, batch), mesh, step)
      with jax.profiler.StepTraceAnnotation('train', step_num=step):
        state, outputs = train_on(state, batch, teacher)
      step += 1
      signals.take_interrupt()
      meter.push(step, outputs)
      progress.step(step)
      stopped = signals.arrived()
      last = stopped or step == config.steps

      if step % config.logging.every == 0 or last:
        row = meter.row() | {'learning_rate': float(learning_rate(step - 1))}
        log.write(step, row)
        progress.row(step, row)

      validated: Row = {}
      if config.validation.every and not stopped and (step % config.validation.every == 0 or step == config.steps):
        try:
          with meter.paused():
            validated = batches.validate(signals.checked(functools.partial(validate_on, state)), loss_scale)
        except KeyboardInterrupt:
          stopped = True
        else:
          progress.validation(step, validated)
          prefixed = {f'validation/{name}': value for name, value in validated.items()}
          log.write(step, prefixed)
          row |= prefixed

      if step % config.checkpoints.every == 0 or last or stopped:
        meter.flush()  # no checkpoint after a step that was not finite
        with meter.paused():
          _require_equal_copies(state, mesh, step)
          saves.save(state, {
              'config': model_json, 'train': config_json, 'statistics': batches.statistics,
              'embedding_id': batches.embedding_id, 'data': batches.position(), 'metrics': row} | language,
              validated or None)
    saves.wait()
  return Outcome(run, step, not stopped, saves.best, row, signals.number)


def target_state(config: TrainConfig, model: PolicyModel, optimizer: optax.GradientTransformation,
                 mesh: Mesh) -> tuple[nnx.GraphDef, TrainState]:
  """Return the model's definition, and shapes, types and shardings of the state."""
  graphdef, *trees = split(model, config.is_trainable)
  state = jax.eval_shape(_creator(config, optimizer), *trees)
  return graphdef, jax.tree.map(lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
                                state, sharding.shardings(state, mesh))


def _initial_state(config: TrainConfig, optimizer: optax.GradientTransformation, target: TrainState, mesh: Mesh,
                   batches: TrainingInput) -> TrainState:
  # What --init.prune measures, it measures on the device.
  with contextlib.nullcontext() if config.init.prune else sharding.started_on(mesh):
    model, reports = _initial_model(config, mesh, batches)
    _, params, batch_stats, constants = split(model, config.is_trainable)
    del model
    constants = with_dtype(constants, config.model, free=True)
  if jax.process_index() == 0 and reports:
    print('\n'.join(reports))
  layout = jax.tree.map(lambda leaf: leaf.sharding, target)
  placed = [sharding.place(tree, mesh) for tree in (params, batch_stats, constants)]
  del params, batch_stats, constants
  return jax.jit(_creator(config, optimizer), out_shardings=layout, donate_argnums=(0, 1, 2))(*placed)


def _initial_model(config: TrainConfig, mesh: Mesh, batches: TrainingInput) -> tuple[PolicyModel, list[str]]:
  """Return the model before the first step, and reports on its weights."""
  with initializers.placed(sharding.spread(mesh)):
    model = models.build(config.model, seed=config.seed)
  from_data = config.model.normalization == 'from_data'
  if not from_data:
    initialize.set_normalization(model, batches.statistics)
  reports = []
  if config.init.weights:
    prune_on = batches.sample(_PRUNING_BATCHES) if config.init.prune else None
    reports.append(initialize.start_from(model, config.init.weights, prune_on))
  reports += [lineage.fill_backbone_part(model, part, folder) for part in lineage.BACKBONE_PARTS
              if (folder := getattr(config.init, part))]
  if from_data and config.data:  # replaces that of the weights, which may come from no robot at all
    initialize.set_normalization(model, batches.statistics)
  return model, reports


def training_step(config: TrainConfig, graphdef: nnx.GraphDef, optimizer: optax.GradientTransformation,
                  target: TrainState, mesh: Mesh) -> tuple[Any, Tree]:
  """Return the jitted `train_step`, and the variables of the teacher, if any."""
  teacher, distillation_targets = None, None
  if config.distillation and config.distillation.teacher:
    definition, teacher = distill.load_teacher(config.distillation.teacher, config.model, mesh)
    distillation_targets = functools.partial(distill.with_targets, graphdef=definition,
                                             weight=config.distillation.weight)
  layout = jax.tree.map(lambda leaf: leaf.sharding, target)
  step = functools.partial(
      train_step, graphdef=graphdef, optimizer=optimizer, grad_accum_steps=config.grad_accum_steps,
      ema_decay=config.optimizer.ema_decay, distillation_targets=distillation_targets,
      text_loss_weight=config.text.loss_weight if config.text else 1.0,
      augment=functools.partial(augment, config=config.augment, action_spec=config.model.action_spec)
      if config.data else None)
  return jax.jit(
      sharding.on_mesh(step, mesh), donate_argnums=0, out_shardings=(layout, NamedSharding(mesh, PartitionSpec())),
      compiler_options=compiler.options(mesh.devices.flat[0].platform)), teacher


def _require_memory(config: TrainConfig, take_step: Any, target: TrainState, batches: TrainingInput, teacher: Tree,
                    mesh: Mesh) -> None:
  """Check the memory of a step, before minutes of initialising and compiling."""
  traced = take_step.trace(target, batches.peek(), teacher)  # the first call finds this trace again
  memory.require_memory(traced.jaxpr.jaxpr, target, config.batch_size, config.grad_accum_steps, mesh)


def _require_equal_copies(tree: Any, mesh: Mesh, step: int) -> None:
  """Compare the copies of arrays that processes hold."""
  if jax.process_count() > 1:
    replicas.require_equal(tree, mesh, f'step {step}')


def _creator(config: TrainConfig, optimizer: optax.GradientTransformation) -> Callable[..., TrainState]:
  def creator(params: Tree, batch_stats: Tree, constants: Tree) -> TrainState:
    return create(params, batch_stats, with_dtype(constants, config.model), jax.random.key(config.seed),
                  optimizer=optimizer, ema=config.optimizer.ema_decay > 0)
  return creator


def _greeting(config: TrainConfig, state: TrainState, mesh: Mesh, run: pathlib.Path, start: int) -> str:
  axes = ', '.join(f'{size} {axis}' for axis, size in sharding.layout(mesh).items() if size > 1)
  devices = f'{jax.device_count()} {jax.devices()[0].device_kind}{f" ({axes})" if axes else ""}'
  if start >= config.steps:
    return f'{run} has all its {start} steps already' + (f', {config.steps} are asked for' * (start > config.steps))
  size = f'{parameters.count(state.params) / 1e6:.1f} M parameters'
  if config.is_trainable:
    size += f' of {(parameters.count(state.params) + parameters.count(state.constants)) / 1e6:.1f} M'
  whole = sharding.describe_whole(state, mesh)
  return (f'{run}: {size}, {devices}, {f"resumes at step {start} of" if start else "starts,"} {config.steps} steps'
          + f'\n{whole}' * bool(whole))
