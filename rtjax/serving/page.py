"""Status page: its HTML (page.html), and its state as JSON."""
import pathlib
import time
from typing import Any

import numpy as np

from rtjax.runtime.html_style import CSS
from rtjax.serving.metrics import Metrics
from rtjax.serving.sessions import Session, Sessions

HTML = (pathlib.Path(__file__).parent / 'page.html').read_text().replace('/* STYLE */', CSS).encode()

# No resources of other origins, and no framing by other sites.
POLICY = ("default-src 'none'; img-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; "
          "script-src 'unsafe-inline'; frame-ancestors 'none'")


def state(metadata: dict[str, Any], sessions: Sessions, metrics: Metrics) -> dict[str, Any]:
  """Return the state that the page shows."""
  batches = metrics.value('rtjax_batch_size_count')
  return {
      'metadata': metadata, 'clients': [_client(session) for session in sessions], 'latency_ms': metrics.latency(),
      'requests': {outcome: int(metrics.value('rtjax_requests_total', outcome=outcome))
                   for outcome in ('answered', 'refused', 'failed')},
      'batch': metrics.value('rtjax_batch_size_sum') / batches if batches else None,
      'memory': metrics.value('process_resident_memory_bytes'),
      'uptime': time.time() - metrics.value('process_start_time_seconds')}


def _client(session: Session) -> dict[str, Any]:
  task = session.task
  return {
      'slot': session.slot, 'peer': session.peer, 'task': task if isinstance(task, str) else None,
      'embedded': isinstance(task, np.ndarray), 'connected': time.monotonic() - session.connected,
      'episode': session.episodes, 'step': session.step, 'ms': 1000 * session.seconds,
      'confidence': session.confidence,
      'actions': np.stack(session.actions).round(5).tolist() if session.actions else []}
