"""Prometheus metrics, read from the router's own counters when somebody asks: the route call pays nothing for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from .bridge import Bridge
from .demand import WAIT_BOUNDS_S
from .feeds import Feeds
from .routing import Routing

#: Endpoints with series of their own; the rest is summed up as "other", so that names cannot flood the monitoring.
MAX_ENDPOINTS = 1000
OTHER = "other"


class RouterMetrics(Collector):
    """`monotonic` is the switchboard's clock."""

    def __init__(self, routing: Routing, feeds: Feeds, bridge: Bridge, monotonic: Callable[[], float]) -> None:
        self._routing = routing
        self._feeds = feeds
        self._bridge = bridge
        self._monotonic = monotonic
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """In the exposition format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        board = self._routing.board
        label = {desk.name: desk.name if n < MAX_ENDPOINTS else OTHER for n, desk in enumerate(board.desks.values())}

        outcomes: dict[tuple[str, ...], float] = defaultdict(float)
        for (endpoint, outcome), count in self._routing.outcomes.items():
            kind, _, reason = outcome.partition("_")
            outcomes[label.get(endpoint, OTHER), kind, reason] += count
        yield _counter("corral_route_requests", "Answers of /route/.", ("endpoint", "outcome", "reason"), outcomes)

        sums: dict[str, dict[str, float]] = {name: defaultdict(float) for name in _PER_ENDPOINT}
        ages: dict[str, float] = {}
        workers: dict[tuple[str, ...], float] = defaultdict(float)
        complaints: dict[str, float] = defaultdict(float)
        waits: dict[str, list[float]] = {}
        wait_sums: dict[str, float] = defaultdict(float)
        now = self._monotonic()
        for desk in board.desks.values():
            name, hold, fleet, demand = label[desk.name], desk.hold, desk.fleet, desk.demand
            oldest = hold.oldest()
            sums["corral_queue_depth"][name] += len(hold)
            sums["corral_held_requests"][name] += hold.present
            sums["corral_routable_workers"][name] += desk.routable
            sums["corral_reserved_units"][name] += fleet.reserved_units
            ages[name] = max(ages.get(name, 0.0), now - oldest.waiting_since if oldest is not None else 0.0)
            complaints[name] += sum(fleet.complaints.totals.values())
            for worker in fleet.workers.values():
                workers[name, str(worker.group_id), str(worker.record.state)] += 1
            counts = waits.setdefault(name, [0.0] * len(demand.wait_counts))
            for n, count in enumerate(demand.wait_counts):
                counts[n] += count
            wait_sums[name] += demand.wait_s_sum
        for metric, values in sums.items():
            yield _gauge(metric, _PER_ENDPOINT[metric], ("endpoint",), {(k,): v for k, v in values.items()})
        yield _gauge(
            "corral_queue_age_seconds", "Age of the oldest waiting request.", ("endpoint",), {(k,): v for k, v in ages.items()}
        )
        yield _gauge("corral_workers", "Workers by state.", ("endpoint", "group", "state"), workers)
        yield _counter(
            "corral_worker_complaints",
            "Requests that came back from a worker.",
            ("endpoint",),
            {(k,): v for k, v in complaints.items()},
        )
        yield _histogram("corral_route_wait_seconds", "How long requests waited here for a worker.", waits, wait_sums)

        yield _counter(
            "corral_unreadable_messages", "Messages and values that could not be read.", (), {(): self._feeds.unreadable}
        )
        yield _counter(
            "corral_worker_reports",
            "Reports of Vast's PyWorkers over HTTP.",
            ("outcome",),
            {(outcome,): count for outcome, count in self._bridge.reports.items()},
        )
        yield _gauge("corral_spoken_for_workers", "Workers whose heartbeat this router says.", (), {(): self._bridge.speaks_for})
        yield _gauge("corral_view_age_seconds", "Age of the oldest view of the control plane.", (), {(): self._feeds.age_s})
        yield _gauge("corral_remembered_requests", "Requests that may come back.", (), {(): len(board.memory)})


_PER_ENDPOINT = {
    "corral_queue_depth": "Requests that wait for a worker.",
    "corral_held_requests": "Requests that wait and whose client listens.",
    "corral_routable_workers": "Workers that get tickets.",
    "corral_reserved_units": "Work promised by tickets and not yet reported by workers.",
}


def _counter(name: str, help_text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family


def _gauge(name: str, help_text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family


def _histogram(name: str, help_text: str, counts: Mapping[str, list[float]], sums: Mapping[str, float]) -> Metric:
    family = HistogramMetricFamily(name, help_text, labels=("endpoint",))
    for endpoint, values in counts.items():
        total, buckets = 0.0, []
        for bound, count in zip((*map(str, WAIT_BOUNDS_S), "+Inf"), values, strict=True):
            total += count
            buckets.append((bound, total))
        family.add_metric((endpoint,), buckets, sum_value=sums[endpoint])
    return family
