"""What the scaler counts. Labels are bounded: states, reasons, operations, never ids."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from schemas.states import WorkerState

_DECIDE_BOUNDS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05)


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.leading = Gauge("corral_scaler_leading", "1 while this scaler holds the lease", registry=registry)
        self.telemetry_live = Gauge(
            "corral_scaler_telemetry_live", "1 while silence of a worker means something", registry=registry
        )
        self.endpoints = Gauge("corral_scaler_endpoints", "endpoints looked after", registry=registry)
        workers = Gauge("corral_scaler_workers", "workers by state", ["state"], registry=registry)
        self.workers = {state: workers.labels(state) for state in WorkerState}
        self.heartbeats = Counter("corral_scaler_heartbeats", "heartbeats folded", registry=registry)
        self.unknown = Counter(
            "corral_scaler_heartbeats_of_strangers", "heartbeats of workers nobody has a record of", registry=registry
        )
        self.unreadable = Counter("corral_scaler_unreadable", "messages that could not be decoded", ["what"], registry=registry)
        self.decisions = Counter("corral_scaler_decisions", "decisions that were recorded", ["why"], registry=registry)
        self.commands = Counter("corral_scaler_commands", "commands sent", ["op"], registry=registry)
        self.record_writes = Counter("corral_scaler_record_writes", "writes to corral_workers", registry=registry)
        self.endpoint_errors = Counter(
            "corral_scaler_endpoint_errors",
            "looks at an endpoint that ended in an error of ours or could not be stored",
            registry=registry,
        )
        self.events_lost = Counter(
            "corral_scaler_events_lost", "events given up: the queue was full, or the bus refused them", registry=registry
        )
        self.events_shortened = Counter(
            "corral_scaler_events_shortened", "decisions told without their input or all their acts", registry=registry
        )
        self.memories_cut = Counter(
            "corral_scaler_memories_cut", "endpoints whose memory grew too large to be stored whole", registry=registry
        )
        self.clock_steps = Counter("corral_scaler_clock_steps", "times that the clock was set while we led", registry=registry)
        self.decide_s = Histogram(
            "corral_scaler_decide_seconds", "time of one decide()", buckets=_DECIDE_BOUNDS_S, registry=registry
        )
