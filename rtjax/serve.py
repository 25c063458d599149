"""Command to serve a policy over a websocket: python -m rtjax.serve CHECKPOINT"""
import asyncio
import contextlib
import dataclasses
import ipaddress
import logging
import os
import pathlib
import signal
import socket
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from rtjax import packaged
from rtjax.runtime import cli, interrupt

if TYPE_CHECKING:
  from rtjax.serving.server import Server


@dataclasses.dataclass(frozen=True)
class Config:
  """Serve a policy to robots over a websocket; see docs/guides/serving.md.

  The protocol is that of openpi-client. http://HOST:PORT is the status page, /metrics is for Prometheus, /healthz for
  health checks. The environment variable RTJAX_API_KEY is the key that clients must send; without it the server accepts
  connections from this machine only.
  """
  checkpoint: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar='CHECKPOINT')]]
  """Run folder of train.py (its newest checkpoint is taken), the folder of one step, released weights, or a packaged
  policy, such as rt1_tabletop."""
  host: str = '127.0.0.1'
  """Address to listen on; 0.0.0.0 is all addresses of this machine, and needs a key."""
  port: int = 8000
  """Port to listen on; 0 takes a free one."""
  max_clients: int = 8
  """Most clients at once. Memory for all of them is allocated at the start."""
  image_size: tuple[int, int] | None = None
  """Height and width of the clients' images; not set = those of training, or 256 320 for released weights."""
  idle_timeout: float = 300.0
  """Seconds without an answered step after which a client loses its slot, for others to take; inf = never."""
  allowed_hosts: tuple[str, ...] = ()
  """Names by which clients address this server, beside localhost, this machine's own name and IP addresses. Requests
  with another Host header are refused, against web pages that rebind their name to this machine."""
  verify: bool = True
  """Compare the checksums of the checkpoint's files before it is read."""
  dtype: Literal['float32', 'bfloat16'] | None = None
  """Type of the policy's computation; none = that of its training. float32 is the faster one on a CPU."""
  encoder: str = ''
  """Instruction encoder: a folder or an .npz table, see rtjax/language/instructions.py. Not needed with encoders
  that their id opens, for models that read prompts, or for clients that send embeddings."""

  def check(self, api_key: str) -> None:
    if self.max_clients < 1:
      raise ValueError(f'--max-clients is {self.max_clients}, it must be at least 1.')
    if not self.idle_timeout > 0:
      raise ValueError(f'--idle-timeout is {self.idle_timeout}, it must be above 0 (s); inf = never.')
    if not 0 <= self.port < 65536:
      raise ValueError(f'--port is {self.port}, expected 0 to 65535.')
    if self.image_size and min(self.image_size) < 1:
      raise ValueError(f'--image-size is {self.image_size}, both must be at least 1.')
    if not api_key and not _loopback(self.host):
      raise ValueError(f'--host {self.host} accepts other machines, which needs a key: set the environment variable '
                       'RTJAX_API_KEY, or use an SSH tunnel to 127.0.0.1.')


def _loopback(host: str) -> bool:
  addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
  return all(ipaddress.ip_address(address).is_loopback for address in addresses)


def main() -> None:
  config = tyro.cli(Config, prog=cli.prog('python -m rtjax.serve'))
  api_key = os.environ.get('RTJAX_API_KEY', '')
  config.check(api_key)
  from rtjax.language import instructions
  if config.encoder:
    instructions.require(config.encoder)
  packaged.require(config.checkpoint)
  interrupt.keep('The server holds nothing to keep; the same command starts it again.')
  logging.basicConfig(level=logging.WARNING, format='%(asctime)s %(levelname)s %(message)s')
  logging.getLogger('rtjax.serve').setLevel(logging.INFO)
  # Imported here, because --help should not wait for JAX.
  import rtjax
  from rtjax.policies import image_size
  from rtjax.serving import server

  encoder = instructions.open_encoder(config.encoder) if config.encoder else None
  with cli.noted_if_slow(f'Loading {config.checkpoint}'):
    policies = rtjax.load_policy(config.checkpoint, robots=config.max_clients, encoder=encoder,
                                  verify=config.verify, dtype=config.dtype)
  size = config.image_size or image_size.input_size(policies.config, policies.metadata)
  print(policies.announcement(size, programs=config.max_clients.bit_length()), flush=True)
  server.warm_up(policies, size)
  number = asyncio.run(serve(server.Server(
      policies, size, api_key, pathlib.Path(config.checkpoint).name,
      allowed_hosts=(config.host, *config.allowed_hosts), idle_timeout=config.idle_timeout), config))
  if number == signal.SIGINT:
    raise SystemExit(interrupt.EXIT_STATUS)


async def serve(server: 'Server', config: Config) -> int:
  """Serve until SIGINT or SIGTERM; return its number."""
  stop = asyncio.Event()
  arrived = []
  loop = asyncio.get_running_loop()

  def end(number: int) -> None:
    arrived.append(number)
    if number == signal.SIGINT:
      interrupt.note()
    stop.set()
    for number in (signal.SIGINT, signal.SIGTERM):
      loop.remove_signal_handler(number)  # a second one ends the process at once

  for number in (signal.SIGINT, signal.SIGTERM):
    with contextlib.suppress(NotImplementedError):  # Windows
      loop.add_signal_handler(number, end, number)
  await server.run(config.host, config.port, stop, lambda port: print(
      f'Serving at ws://{config.host}:{port}; status page: http://{config.host}:{port}', flush=True))
  print('Stopped.')
  return arrived[0] if arrived else 0


if __name__ == '__main__':
  cli.run(main)
