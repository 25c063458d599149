"""Metrics of the server, for Prometheus and for its status page."""
import collections

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

import rtjax

_SECONDS = (.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10)
_BATCHES = (1, 2, 4, 8, 16, 32, 64)
CONTENT_TYPE = CONTENT_TYPE_LATEST
RECENT = 1000
"""Number of requests in the page's percentiles."""


class Metrics:
  """Metrics of one server, in their own registry."""

  def __init__(self, model: str) -> None:
    self._registry = registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    self.requests = Counter('rtjax_requests', 'Observations received: answered, refused as malformed, or failed in the '
                            'server.', ['outcome'], registry=registry)
    self.connections = Counter('rtjax_connections', 'Connections: served, of those closed for idleness, or refused: '
                               'all slots are taken, wrong key, wrong host, invalid headers, too many connections.',
                               ['outcome'], registry=registry)
    self.episodes = Counter('rtjax_episodes', 'Episodes begun.', registry=registry)
    self.clients = Gauge('rtjax_clients', 'Clients connected.', registry=registry)
    self.batches = Histogram('rtjax_batch_size', 'Observations that shared a step of the model.', buckets=_BATCHES,
                             registry=registry)
    self.step_seconds = Histogram('rtjax_step_seconds', 'Duration of a step of the model.', buckets=_SECONDS,
                                  registry=registry)
    self.request_seconds = Histogram('rtjax_request_seconds', 'Time from an observation to its reply.',
                                     buckets=_SECONDS, registry=registry)
    Gauge('rtjax_info', 'Version and model.', ['version', 'model'], registry=registry).labels(
        rtjax.__version__, model).set(1)
    for outcome in ('answered', 'refused', 'failed'):
      self.requests.labels(outcome)
    for outcome in ('served', 'idle', 'unused', 'unread', 'full', 'unauthorized', 'misdirected', 'invalid', 'crowded'):
      self.connections.labels(outcome)
    self._recent: collections.deque[float] = collections.deque(maxlen=RECENT)

  def answered(self, seconds: float) -> None:
    """Count an answered request and its duration."""
    self.requests.labels('answered').inc()
    self.request_seconds.observe(seconds)
    self._recent.append(seconds)

  def exposition(self) -> bytes:
    """Return the metrics in Prometheus's text format."""
    return generate_latest(self._registry)

  def value(self, name: str, **labels: str) -> float:
    """Return the value of one metric, by its name in Prometheus."""
    return self._registry.get_sample_value(name, labels) or 0.0

  def latency(self) -> dict[str, list[float]]:
    """Return the last RECENT durations, and percentiles 50, 95 and 99 (ms)."""
    recent = 1000 * np.array(self._recent)
    percentiles = np.percentile(recent, (50, 95, 99)) if len(recent) else recent
    return {'recent': recent.round(2).tolist(), 'percentiles': percentiles.round(2).tolist()}
