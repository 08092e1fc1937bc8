"""GET /metrics: counters of load.py as they are, and three histograms. No label comes from a client."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from .wire import signals, states

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BOUNDS_S = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class Histogram:
    """Seconds, counted where they are observed. prometheus_client's own takes a lock or two per observation, for threads that
    are not here; on the path of every request that shows.
    """

    __slots__ = ("_counts", "_sum_s", "name", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self._counts = [0] * (len(_BOUNDS_S) + 1)
        self._sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(_BOUNDS_S, seconds)] += 1
        self._sum_s += seconds

    def family(self) -> HistogramMetricFamily:
        labels = [*map(str, _BOUNDS_S), "+Inf"]
        cumulative = [float(count) for count in accumulate(self._counts)]
        return HistogramMetricFamily(
            self.name, self.text, buckets=list(zip(labels, cumulative, strict=True)), sum_value=self._sum_s
        )


class Metrics:
    """One registry per worker, so that several may live in one process."""

    def __init__(self, snapshot: Callable[[], signals.Heartbeat]) -> None:
        self.queue_s = Histogram("corral_worker_queue_seconds", "Time from acceptance to the start at the model.")
        self.first_byte_s = Histogram(
            "corral_worker_first_byte_seconds", "Time from the start at the model to the head of its answer."
        )
        self.duration_s = Histogram("corral_worker_request_seconds", "Time from acceptance to the last byte.")
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(snapshot, (self.queue_s, self.first_byte_s, self.duration_s)))

    def render(self) -> bytes:
        return generate_latest(self._registry)


class _Collector(Collector):
    """The numbers that the control plane gets, under Prometheus' names, and the histograms."""

    def __init__(self, snapshot: Callable[[], signals.Heartbeat], histograms: tuple[Histogram, ...]) -> None:
        self._snapshot = snapshot
        self._histograms = histograms

    def collect(self) -> Iterator[Metric]:
        beat = self._snapshot()
        requests = CounterMetricFamily("corral_worker_requests", "Requests by outcome.", labels=["outcome"])
        for outcome in ("served", "failed", "cancelled", "rejected", "unauthorized"):
            requests.add_metric([outcome], getattr(beat, f"{outcome}_total"))
        yield requests
        state = GaugeMetricFamily("corral_worker_state", "1 for the state the worker is in.", labels=["state"])
        for one in sorted(states.SELF_REPORTED):
            state.add_metric([one.value], float(one is beat.state))
        yield state
        for name, text, value in (
            ("load_units", "Work units accepted and not finished.", beat.load),
            ("inflight_requests", "Requests at the model.", beat.inflight),
            ("queued_requests", "Requests that wait here.", beat.queued),
            ("perf_units_per_second", "Measured speed; 0 while not known.", beat.perf),
            ("slots", "Requests served at once.", beat.slots),
        ):
            yield GaugeMetricFamily(f"corral_worker_{name}", text, value=value)
        yield CounterMetricFamily("corral_worker_served_units", "Work units finished well.", value=beat.served_units_total)
        yield CounterMetricFamily("corral_worker_busy_seconds", "Seconds with a request at the model.", value=beat.busy_s_total)
        for histogram in self._histograms:
            yield histogram.family()
        yield from _gpus(beat)


def _gpus(beat: signals.Heartbeat) -> Iterator[Metric]:
    for name, text, field in (
        ("utilization_ratio", "0 to 1.", "utilization_ratio"),
        ("memory_used_bytes", "In use.", "memory_used_bytes"),
        ("memory_total_bytes", "In all.", "memory_total_bytes"),
        ("temperature_celsius", "At the core.", "temperature_c"),
        ("power_watts", "Drawn.", "power_w"),
    ):
        family = GaugeMetricFamily(f"corral_worker_gpu_{name}", text, labels=["gpu"])
        for gpu in beat.gpus:
            value = getattr(gpu, field)
            if value is not None:
                family.add_metric([str(gpu.index)], value)
        if family.samples:
            yield family
