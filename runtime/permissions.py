"""Who may say and hear what, as NATS permissions per role.

Built only from `schemas.subjects` and `runtime.js_names`, so a subject that is renamed there is renamed here.
{{name()}} is the name of a user, {{tag(ep)}} the endpoint a worker belongs to: the server fills them in.

A name that may create consumers may have messages delivered to any subject of its account. So nobody but scaler and migrate
may: views and tails read streams by direct get, pull consumers are created by migrate, and integrators live in an
account of their own.
"""

from __future__ import annotations

from enum import StrEnum

from schemas import commands, ids, subjects

from . import js_names as js
from .jwt import Export, Scope


class Role(StrEnum):
    WORKER = "worker"  #: name = worker id, tag ep:<endpoint token>
    ROUTER = "router"
    PROVISIONER = "provisioner"
    SCALER = "scaler"
    MIGRATE = "migrate"
    OPERATOR = "operator"  #: reads everything, changes nothing
    INTEGRATOR = "integrator"  #: in the account EVT; name = its durable


NAME = "{{name()}}"
ENDPOINT_TAG = "{{tag(ep)}}"

#: Kinds of events that the admin API tells; see schemas.events.
ADMIN_EVENTS = (
    "endpoint_created",
    "endpoint_changed",
    "endpoint_deleted",
    "group_created",
    "group_changed",
    "group_deleted",
    "group_resumed",
    "demand_waiting",
)


def worker_tag(endpoint_id: ids.EndpointId) -> str:
    """The tag that binds a worker to its endpoint."""
    return f"ep:{ids.endpoint_token(endpoint_id)}"


def cp_scopes() -> dict[Role, Scope]:
    """The roles of the control plane's account."""
    own_inbox = _below(subjects.inbox(NAME))
    everything = (">",)
    return {
        Role.WORKER: Scope(
            role=Role.WORKER,
            publish=(_fill(subjects.HEARTBEATS, ENDPOINT_TAG, NAME), _fill(subjects.WORKER_EVENTS, ENDPOINT_TAG, NAME, "*")),
            subscribe=(subjects.control(ids.WorkerId(NAME)), own_inbox),
            replies=1,
        ),
        Role.ROUTER: Scope(
            role=Role.ROUTER,
            publish=(
                _fill(subjects.LOADS, "*", NAME),
                _fill(subjects.RESERVATIONS, "*", NAME),
                # For workers that report over HTTP. Whoever signs tickets and may command any worker's end gains nothing by
                # speaking for one: see ADR 0010.
                _fill(subjects.HEARTBEATS, "*", "*"),
                subjects.ENROLL,
                *(_fill(subjects.COMMANDS, op, "*") for op in commands.OPS),
                *(subjects.events_of_kind(kind) for kind in ADMIN_EVENTS),
                *_reads(
                    subjects.BUCKET_ENDPOINTS,
                    subjects.BUCKET_KEYS,
                    subjects.BUCKET_TEMPLATES,
                    subjects.BUCKET_WORKERS,
                    subjects.BUCKET_INSTANCES,
                    subjects.BUCKET_DEMAND,
                ),
                *_writes(subjects.BUCKET_ENDPOINTS, subjects.BUCKET_KEYS, subjects.BUCKET_TEMPLATES, subjects.BUCKET_DEMAND),
                *_tails(subjects.STREAM_EVENTS, subjects.STREAM_DEAD_LETTERS),
            ),
            subscribe=(
                subjects.HEARTBEATS,
                subjects.RESERVATIONS,
                subjects.EVENTS,
                subjects.DEAD_LETTERS,
                *_hears(
                    subjects.BUCKET_ENDPOINTS,
                    subjects.BUCKET_KEYS,
                    subjects.BUCKET_TEMPLATES,
                    subjects.BUCKET_WORKERS,
                    subjects.BUCKET_INSTANCES,
                    subjects.BUCKET_DEMAND,
                ),
                own_inbox,
            ),
            replies=1,
        ),
        Role.PROVISIONER: Scope(
            role=Role.PROVISIONER,
            publish=(
                *_works(subjects.STREAM_COMMANDS, subjects.CONSUMER_PROVISIONER),
                *_works(subjects.STREAM_ADVISORIES, subjects.CONSUMER_DLQ),
                js.message_get(subjects.STREAM_COMMANDS),
                js.message_delete(subjects.STREAM_COMMANDS),
                subjects.EVENTS,
                subjects.DEAD_LETTERS,
                subjects.control(ids.WorkerId("*")),
                *_reads(subjects.BUCKET_IDEM, subjects.BUCKET_INSTANCES, subjects.BUCKET_ENDPOINTS, subjects.BUCKET_WORKERS),
                *_writes(subjects.BUCKET_IDEM, subjects.BUCKET_INSTANCES),
            ),
            subscribe=(
                subjects.ENROLL,
                subjects.HEARTBEATS,
                *_hears(subjects.BUCKET_IDEM, subjects.BUCKET_INSTANCES, subjects.BUCKET_ENDPOINTS, subjects.BUCKET_WORKERS),
                own_inbox,
            ),
            replies=1,
        ),
        Role.SCALER: Scope(role=Role.SCALER, publish=everything, subscribe=everything),
        Role.MIGRATE: Scope(role=Role.MIGRATE, publish=everything, subscribe=everything),
        Role.OPERATOR: Scope(
            role=Role.OPERATOR,
            publish=(
                js.SERVICES,
                f"{js.API}.INFO",
                f"{js.API}.STREAM.NAMES",
                f"{js.API}.STREAM.LIST",
                js.stream_info("*"),
                f"{js.API}.CONSUMER.INFO.>",
                f"{js.API}.CONSUMER.LIST.*",
                *_reads(*OPERATOR_BUCKETS),
                *_tails(*_STREAMS),
            ),
            subscribe=(subjects.EVERYTHING, *_hears(*OPERATOR_BUCKETS), js.CONNECTION_INBOXES, own_inbox),
        ),
    }


#: What an operator's `nats` command line may look into: everything but the hashes of API keys.
OPERATOR_BUCKETS = tuple(bucket for bucket in subjects.BUCKETS if bucket != subjects.BUCKET_KEYS)


_STREAMS = (
    subjects.STREAM_COMMANDS,
    subjects.STREAM_WORKER_EVENTS,
    subjects.STREAM_ADVISORIES,
    subjects.STREAM_DEAD_LETTERS,
    subjects.STREAM_EVENTS,
)


def evt_scopes() -> dict[Role, Scope]:
    """The roles of the integrators' account. Their durables are made for them."""
    return {
        Role.INTEGRATOR: Scope(
            role=Role.INTEGRATOR,
            publish=(
                f"{js.API}.CONSUMER.INFO.{subjects.STREAM_EVENTS}.{NAME}",
                f"{js.API}.CONSUMER.MSG.NEXT.{subjects.STREAM_EVENTS}.{NAME}",
                js.acks(subjects.STREAM_EVENTS, NAME),
            ),
            subscribe=(subjects.EVENTS, _below(subjects.inbox(NAME))),
        )
    }


def evt_exports() -> tuple[Export, ...]:
    """What EVT offers to CP: to append events, and the JetStream API that keeps and reads them."""
    return (Export(subject=subjects.EVENTS), Export(subject=f"{js.API}.>", streamed=True))


def _reads(*buckets: str) -> tuple[str, ...]:
    """Get by the leader, and views: a snapshot and what follows, by direct get."""
    streams = [js.kv_stream(bucket) for bucket in buckets]
    return tuple(make(stream) for stream in streams for make in (js.stream_info, js.message_get, js.direct_get))


def _writes(*buckets: str) -> tuple[str, ...]:
    return tuple(js.kv_all(bucket) for bucket in buckets)


def _hears(*buckets: str) -> tuple[str, ...]:
    """Views are woken by the writes themselves."""
    return tuple(js.kv_all(bucket) for bucket in buckets)


def _tails(*streams: str) -> tuple[str, ...]:
    return tuple(make(stream) for stream in streams for make in (js.stream_info, js.direct_get))


def _works(stream: str, durable: str) -> tuple[str, ...]:
    return (js.consumer_info(stream, durable), js.next_message(stream, durable), js.acks(stream, durable))


def _below(prefix: str) -> str:
    return f"{prefix}.>"


def _fill(pattern: str, *tokens: str) -> str:
    """The pattern of a class of subjects with its wildcards at the end replaced by tokens."""
    head = pattern.split(".")
    while head and head[-1] in {">", "*"}:
        head.pop()
    return ".".join((*head, *tokens))
