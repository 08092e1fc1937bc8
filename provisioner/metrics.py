"""What the provisioner counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from schemas.records import InstanceRecord

_CALL_BUCKETS_S = (0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0)


class Metrics:
    """No label names a worker or an endpoint: their number is not bounded."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """Without a registry nothing is shown."""
        registry = registry or CollectorRegistry()
        self._commands = Counter(
            "corral_provisioner_commands_total",
            "Commands by how an attempt at them ended: done, settled, refused, retried, dead.",
            ["op", "outcome"],
            registry=registry,
        )
        self._failures = Counter(
            "corral_provisioner_worker_failures_total", "Workers that failed, by cause.", ["cause"], registry=registry
        )
        self._calls = Histogram(
            "corral_provisioner_provider_call_seconds",
            "How long a provider took for a call.",
            ["provider", "op"],
            buckets=_CALL_BUCKETS_S,
            registry=registry,
        )
        self._workers = Gauge(
            "corral_provisioner_workers",
            "Workers by provider and state, as written down.",
            ["provider", "state"],
            registry=registry,
        )

    def command(self, op: str, outcome: str) -> None:
        self._commands.labels(op, outcome).inc()

    def failure(self, cause: str) -> None:
        self._failures.labels(cause).inc()

    @contextmanager
    def call(self, provider: str, op: str) -> Iterator[None]:
        with self._calls.labels(provider, op).time():
            yield

    def workers(self, records: Iterable[InstanceRecord]) -> None:
        self._workers.clear()
        for record in records:
            self._workers.labels(record.provider, record.state).inc()
