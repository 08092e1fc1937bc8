"""Closed lists of causes. A person reads the sentence; a machine counts the code."""

from __future__ import annotations

from enum import StrEnum


class Cause(StrEnum):
    """Why a worker failed or could not come. Closed: a new cause is a new release."""

    NO_OFFER = "no_offer"  #: no provider has a machine that fits the filter
    PRICE_CAP = "price_cap"  #: machines exist, all above the price the user allows
    BUDGET = "budget"  #: the endpoint has spent what it may
    RENT_FAILED = "rent_failed"  #: the provider refused or lost the rental
    HOST_LOST = "host_lost"  #: the machine disappeared
    IMAGE_PULL = "image_pull"  #: the image or package could not be fetched
    PORT_CONFLICT = "port_conflict"  #: the port was taken, or somebody else answers where clients are sent
    START_CRASH = "start_crash"  #: the process ended before the model was loaded
    MODEL_DOWNLOAD = "model_download"  #: weights missing or not fetched
    MODEL_OOM = "model_oom"  #: out of memory
    BENCH_FAILED = "bench_failed"  #: the benchmark had no good answer
    HANG = "hang"  #: a phase passed its deadline
    HEARTBEAT_LOST = "heartbeat_lost"  #: was alive, fell silent
    PROTOCOL_MISMATCH = "protocol_mismatch"  #: worker speaks a version this control plane does not
    AUTH = "auth"  #: credentials refused
    PREEMPTED = "preempted"  #: the provider took the machine back
    HALTED = "halted"  #: the group's breaker is open


class Phase(StrEnum):
    """Where in its start a worker is; failures are counted per phase."""

    RENT = "rent"
    BOOT = "boot"
    MODEL = "model"
    BENCH = "bench"
    SERVE = "serve"
    STOP = "stop"


class Why(StrEnum):
    """Why a scaling decision is what it is. Closed list; the decision event adds a sentence."""

    DEMAND_WAITING = "demand_waiting"  #: requests wait and nothing serves them
    LOAD_UP = "load_up"  #: load over target utilisation
    LOAD_DOWN = "load_down"  #: load well under target utilisation
    QUEUE_TIME = "queue_time"  #: expected wait above target_queue_time
    MIN_LOAD = "min_load"
    MIN_WORKERS = "min_workers"
    MAX_WORKERS = "max_workers"
    IDLE = "idle"  #: no request for inactivity_timeout
    COLD_POOL = "cold_pool"  #: stopped workers above or below what pays
    REPLACE = "replace"  #: a worker failed or was lost
    REVISION = "revision"  #: an older revision makes way
    SHARE = "share"  #: a worker group has more or less than its share
    TRIAL = "trial"  #: a worker group that nobody has measured is tried
    ENDPOINT_SUSPENDED = "endpoint_suspended"
    ENDPOINT_STOPPED = "endpoint_stopped"
    ENDPOINT_DELETED = "endpoint_deleted"
    GROUP_DELETED = "group_deleted"
    BREAKER_OPEN = "breaker_open"
    NO_DATA = "no_data"  #: nothing is known, so nothing is changed
    FROZEN = "frozen"  #: all telemetry stopped: our network, not the workers
    MANUAL = "manual"  #: an operator said so
    SCHEDULE = "schedule"
    STEADY = "steady"  #: what is, is what should be


class WaitReason(StrEnum):
    """Why a request waits, as `/route/` says it beside a sentence. docs/errors.md has a line for each. Closed list."""

    STOPPED = "stopped"  #: the endpoint is stopped
    NO_GROUP = "no_group"  #: the endpoint has no worker group
    EXCLUDED = "excluded"  #: every ready worker has failed this request before
    AT_CAPACITY = "at_capacity"  #: all ready workers are busy
    STARTING = "starting"  #: a worker is on its way
    MAX_WORKERS = "max_workers"  #: the endpoint's max_workers is 0
    SUSPENDED = "suspended"  #: nothing is started while the endpoint is suspended
    WEIGHT_0 = "weight_0"  #: no group with a weight above 0
    EXTERNAL = "external"  #: people bring the machines, and none is here
    FULL = "full"  #: max_workers, of the groups or of the endpoint, leaves no room for one more
    HALTED = "halted"  #: the breaker of every group that could start one is open
    FAILING = "failing"  #: starts fail, and are tried again
    NO_WORKER = "no_worker"  #: one was asked for
