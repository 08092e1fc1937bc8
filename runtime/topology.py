"""Every stream, bucket and consumer, made or brought up to date: `ensure(client)` is idempotent.

`replicas` is 1 on one server and 3 in a cluster; changing it later is one more run. All storage is on file; whether an
acknowledged write survives a power cut is the server's `sync_interval: always`.
"""

from __future__ import annotations

from typing import Any

import msgspec
import nats.errors
import nats.js.errors
import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext, api

from schemas import subjects
from schemas.ids import is_token

from . import js_names
from .errors import BusRefused, BusUnavailable

log = structlog.get_logger()

_MINUTE = 60
_HOUR = 3600
_DAY = 24 * _HOUR
_KIB = 1024
_MIB = 1024 * _KIB

COMMAND_BACKOFF_S = (30, 60, 120, 300, 600)  #: the first is also the time to ack
COMMAND_MAX_DELIVERIES = 6
_API_TIMEOUT_S = 10.0  #: making a replicated stream waits for its members


class BucketSpec(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    about: str
    history: int = 1
    max_bytes: int = 64 * _MIB
    max_value_bytes: int = 256 * _KIB
    ttl_s: int = 0  #: of every value; 0: for ever
    marker_ttl_s: int = 5 * _MINUTE  #: how long the marker of an expired key tells views about it


BUCKETS = (
    BucketSpec(name=subjects.BUCKET_ENDPOINTS, about="endpoints and their worker groups, as people want them", history=10),
    BucketSpec(name=subjects.BUCKET_KEYS, about="API keys, hashed", max_value_bytes=16 * _KIB),
    BucketSpec(name=subjects.BUCKET_TEMPLATES, about="what runs on a worker", history=10),
    BucketSpec(
        name=subjects.BUCKET_WORKERS,
        about="workers as the scaler sees them: the routers' feed",
        max_bytes=256 * _MIB,
        max_value_bytes=16 * _KIB,
    ),
    BucketSpec(name=subjects.BUCKET_INSTANCES, about="instances as the provider has them", max_bytes=256 * _MIB),
    BucketSpec(
        name=subjects.BUCKET_SCALER,
        about="the scaler's memory per endpoint",
        history=5,
        max_bytes=256 * _MIB,
        max_value_bytes=_MIB,
    ),
    BucketSpec(
        name=subjects.BUCKET_DEMAND,
        about="somebody waits for an endpoint",
        max_bytes=16 * _MIB,
        max_value_bytes=4 * _KIB,
        ttl_s=_HOUR,
    ),
    BucketSpec(name=subjects.BUCKET_LEASE, about="who leads which shard", max_bytes=4 * _MIB, max_value_bytes=4 * _KIB),
    BucketSpec(name=subjects.BUCKET_IDEM, about="what the provisioner set out to do, by command", ttl_s=7 * _DAY),
)
assert {spec.name for spec in BUCKETS} == set(subjects.BUCKETS)


def streams(replicas: int) -> list[api.StreamConfig]:
    """The streams of the account CP, buckets included."""
    common: dict[str, Any] = {"storage": api.StorageType.FILE, "num_replicas": replicas, "allow_direct": True}
    return [
        api.StreamConfig(
            name=subjects.STREAM_COMMANDS,
            subjects=[subjects.COMMANDS],
            description="what the provisioner is to do",
            retention=api.RetentionPolicy.WORK_QUEUE,
            discard=api.DiscardPolicy.NEW,
            max_age=_HOUR,
            max_bytes=64 * _MIB,
            max_msg_size=64 * _KIB,
            max_consumers=8,
            duplicate_window=10 * _MINUTE,
            allow_msg_ttl=True,
            **common,
        ),
        api.StreamConfig(
            name=subjects.STREAM_WORKER_EVENTS,
            subjects=[subjects.WORKER_EVENTS],
            description="what workers tell once",
            max_age=_DAY,
            max_bytes=256 * _MIB,
            max_msg_size=64 * _KIB,
            duplicate_window=2 * _MINUTE,
            **common,
        ),
        api.StreamConfig(
            name=subjects.STREAM_ADVISORIES,
            subjects=[
                js_names.max_deliveries_advisories(subjects.STREAM_COMMANDS),
                js_names.terminated_advisories(subjects.STREAM_COMMANDS),
            ],
            description="commands that were given up",
            max_age=7 * _DAY,
            max_bytes=16 * _MIB,
            **common,
        ),
        api.StreamConfig(
            name=subjects.STREAM_DEAD_LETTERS,
            subjects=[subjects.DEAD_LETTERS],
            description="dead commands with their cause, parked for a person",
            max_age=14 * _DAY,
            max_bytes=64 * _MIB,
            duplicate_window=_HOUR,
            **common,
        ),
        *(_bucket_stream(spec, replicas) for spec in BUCKETS),
    ]


def events_stream(replicas: int) -> api.StreamConfig:
    """The one stream of the account EVT."""
    return api.StreamConfig(
        name=subjects.STREAM_EVENTS,
        subjects=[subjects.EVENTS],
        description="what happened: the public contract",
        storage=api.StorageType.FILE,
        num_replicas=replicas,
        max_age=7 * _DAY,
        max_bytes=1024 * _MIB,
        max_msg_size=_MIB,  # the input of a decision about a thousand workers is more than a hundred KiB
        duplicate_window=10 * _MINUTE,
        deny_delete=True,
        deny_purge=True,
        allow_direct=True,
        compression=api.StoreCompression.S2,
    )


def consumers() -> list[tuple[str, api.ConsumerConfig]]:
    """(stream, consumer) of the account CP."""
    return [
        (
            subjects.STREAM_COMMANDS,
            api.ConsumerConfig(
                durable_name=subjects.CONSUMER_PROVISIONER,
                ack_policy=api.AckPolicy.EXPLICIT,
                ack_wait=COMMAND_BACKOFF_S[0],
                backoff=[float(step_s) for step_s in COMMAND_BACKOFF_S],
                max_deliver=COMMAND_MAX_DELIVERIES,
                max_ack_pending=64,
                max_waiting=64,
                filter_subject=subjects.COMMANDS,
            ),
        ),
        (
            subjects.STREAM_ADVISORIES,
            api.ConsumerConfig(
                durable_name=subjects.CONSUMER_DLQ, ack_policy=api.AckPolicy.EXPLICIT, ack_wait=30, max_ack_pending=64
            ),
        ),
    ]


async def ensure(client: Client, *, replicas: int = 1) -> None:
    """Make what is missing and update what differs. Needs the role migrate or scaler.

    Raises BusUnavailable when the server does not answer, BusRefused when it cannot be done (a change that JetStream forbids).
    """
    own = client.jetstream(timeout=_API_TIMEOUT_S)
    events = client.jetstream(prefix=js_names.EVENTS_API, timeout=_API_TIMEOUT_S)
    try:
        for config in streams(replicas):
            await _ensure_stream(own, config)
        await _ensure_stream(events, events_stream(replicas))
        for stream, consumer in consumers():
            await own.add_consumer(stream, consumer)
    except nats.js.errors.ServiceUnavailableError as error:
        raise BusUnavailable(f"JetStream is not ready: {error.description}", "is there a quorum of servers?") from error
    except nats.js.errors.APIError as error:
        raise BusRefused(f"JetStream refused a stream or consumer: {error.description} ({error.err_code})") from error
    except (nats.errors.Error, TimeoutError) as error:
        raise BusUnavailable(f"JetStream does not answer: {error}", "does this role have the right to make streams?") from error


async def ensure_integrator(client: Client, name: str, *, pattern: str = subjects.EVENTS) -> None:
    """The durable from which an integrator of this name reads events. Pull only, so it delivers to nobody else.

    Raises ValueError when the name is not a token; BusRefused, BusUnavailable.
    """
    if not is_token(name):
        raise ValueError(f"not a name for an integrator: {name!r}")
    events = client.jetstream(prefix=js_names.EVENTS_API, timeout=_API_TIMEOUT_S)
    config = api.ConsumerConfig(
        durable_name=name, ack_policy=api.AckPolicy.EXPLICIT, ack_wait=30, max_ack_pending=1000, filter_subject=pattern
    )
    try:
        await events.add_consumer(subjects.STREAM_EVENTS, config)
    except nats.js.errors.APIError as error:
        raise BusRefused(f"JetStream refused the durable {name}: {error.description} ({error.err_code})") from error
    except (nats.errors.Error, TimeoutError) as error:
        raise BusUnavailable(f"JetStream does not answer: {error}") from error


def _bucket_stream(spec: BucketSpec, replicas: int) -> api.StreamConfig:
    return api.StreamConfig(
        name=js_names.kv_stream(spec.name),
        subjects=[js_names.kv_all(spec.name)],
        description=spec.about,
        storage=api.StorageType.FILE,
        num_replicas=replicas,
        max_msgs_per_subject=spec.history,
        max_bytes=spec.max_bytes,
        max_msg_size=spec.max_value_bytes,
        max_age=spec.ttl_s,
        discard=api.DiscardPolicy.NEW,
        duplicate_window=min(2 * _MINUTE, spec.ttl_s) if spec.ttl_s else 2 * _MINUTE,
        allow_rollup_hdrs=True,
        deny_delete=True,
        allow_direct=True,
        allow_msg_ttl=True,
        subject_delete_marker_ttl=spec.marker_ttl_s,
    )


_STREAM_NAME_IN_USE = 10058


async def _ensure_stream(js: JetStreamContext, config: api.StreamConfig) -> None:
    try:
        await js.add_stream(config)
    except nats.js.errors.APIError as error:
        if error.err_code != _STREAM_NAME_IN_USE:
            raise
        await js.update_stream(config)
        log.info("stream_updated", stream=config.name)
