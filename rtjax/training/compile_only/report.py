"""Report on a training step for devices that are not there."""
import dataclasses
import math

from rtjax.training.compile_only.devices import CHIPS, Chip
from rtjax.training.compile_only.program import Buffer, Cost
from rtjax.training.config import TrainConfig

_SHOWN = 8  # buffers in a report
_MUCH = 0.1  # share of the memory from which on parameters are worth splitting


@dataclasses.dataclass(frozen=True)
class Report:
  """Memory and work of one device in a training step.

  Attributes:
    target: the devices asked for, such as v5e:4x4.
    mesh: devices along (data, fsdp, tensor).
    memory: kind -> bytes.
    buffers: the largest arrays when memory is at its peak.
    cost: work of a step; None if the compiler refused the program for its memory.
    seconds: time that compiling took.
  """
  config: TrainConfig
  target: str
  mesh: dict[str, int]
  memory: dict[str, float]
  buffers: list[Buffer]
  cost: Cost | None
  seconds: float

  @property
  def chip(self) -> Chip | None:
    return CHIPS.get(self.target.split(':')[0])

  @property
  def total(self) -> float:
    return sum(self.memory.values())

  @property
  def limit(self) -> float:
    """Bytes that a program may use.

    Infinite for simulated devices, which share the memory of a machine.
    """
    return self.chip.hbm if self.chip else math.inf

  @property
  def fits(self) -> bool:
    return self.cost is not None and self.total <= self.limit

  @property
  def bounds(self) -> dict[str, float]:
    """Least seconds of compute, main memory, messages, and of the step.

    The step takes each operation at the slower of compute and memory, and messages behind them.
    """
    if not self.chip or not self.cost:
      return {}
    sent = sum(size for _, size in self.cost.messages.values())
    parts = {'compute': self.cost.flops / self.chip.flops, 'memory': self.cost.hbm_bytes / self.chip.hbm_rate,
             'interconnect': sent / self.chip.ici_rate}
    return parts | {'step': max(self.cost.seconds, parts['interconnect'])}

  def advice(self) -> str:
    """Return settings that would make the step fit."""
    c = self.config
    temporary = self.memory['temporary']
    replicas = self.mesh['data'] * self.mesh['fsdp']
    examples = c.batch_size // (c.grad_accum_steps * replicas)
    parts = next((n for n in range(2, examples + 1) if examples % n == 0
                  and self.total - temporary + temporary / n <= self.limit), None)
    ways = [f'--grad-accum-steps {c.grad_accum_steps * parts} (the same batch in more parts)'] if parts else []
    if c.model.dtype == 'float32':
      ways.append('--model.dtype bfloat16')
    if getattr(c.model, 'remat', True) is False:
      ways.append('--model.remat')
    held = self.memory['parameters'] + self.memory['optimizer']
    if self.mesh['fsdp'] == 1 and replicas > 1 and held > _MUCH * self.limit:
      ways.append('--mesh.data 1 --mesh.fsdp -1 (parameters and optimizer split over the devices)')
    return '; '.join([*ways, 'more devices'])


def describe(report: Report) -> str:
  """Return the report as text."""
  c, devices_of = report.config, math.prod(report.mesh.values())
  layout = ', '.join(f'{size} {axis}' for axis, size in report.mesh.items() if size > 1)
  examples = 'windows' if c.data else 'image-text pairs'
  lines = [f'{c.batch_size} {examples} in {c.grad_accum_steps} part(s), {c.model.dtype}, on {devices_of} devices of '
           f'{report.target}{f" ({layout})" if layout else ""}; compiled in {report.seconds:.0f} s', '',
           'Memory of a device, GB']
  lines += [f'  {kind:<16}{size / 1e9:8.3f}' for kind, size in report.memory.items()]
  lines += [f'  {"in all":<16}{report.total / 1e9:8.3f}{_verdict(report)}']
  if report.buffers:
    lines += ['', 'Largest buffers when memory is at its peak, GB']
    lines += [f'  {b.size / 1e9:8.3f}  {b.count} x {b.array.text}  {b.source}' for b in report.buffers[:_SHOWN]]
  if report.cost:
    lines += ['', 'Work of a device in a step', *_work(report)]
  return '\n'.join(lines)


def _verdict(report: Report) -> str:
  if not report.chip:
    return ''
  limit = f'{report.limit / 1e9:.2f}'
  return f'  fits into {limit}' if report.fits else f'  does not fit into {limit}\nInstead: {report.advice()}'


def _work(report: Report) -> list[str]:
  cost, bounds = report.cost, report.bounds
  assert cost is not None
  def least(name: str) -> str:
    return f'{1e3 * bounds[name]:10.3f} ms' if bounds else ''
  sent = sum(size for _, size in cost.messages.values())
  lines = [f'  matrix products {cost.flops / 1e12:10.4f} TFLOP {least("compute")}',
           f'  main memory     {cost.hbm_bytes / 1e9:10.4f} GB    {least("memory")}',
           f'  messages sent   {sent / 1e9:10.4f} GB    {least("interconnect")}']
  lines += [f'    {kind}: {size / 1e9:.4f} GB in {number}' for kind, (number, size) in cost.messages.items()]
  if bounds:
    rate, used = report.config.batch_size / bounds['step'], bounds['compute'] / bounds['step']
    lines.append(f'  at least {1e3 * bounds["step"]:.2f} ms a step, {rate:,.0f} windows/s, {100 * used:.0f} % of the '
                 'matrix rate (each operation at the slower of its two bounds)')
  return lines
