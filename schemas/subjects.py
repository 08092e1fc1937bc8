"""Every subject, stream, bucket and key. A string with a dot in it appears nowhere else.

    corral.v1.hb.<ep>.<wid>        worker -> all        core   heartbeat, full state
    corral.v1.wev.<ep>.<wid>.<k>   worker -> CORRAL_WEV        one-off facts
    corral.v1.ctl.<wid>            -> worker            core   request/reply
    corral.v1.load.<ep>.<router>   router -> scaler     core   demand
    corral.v1.rsv.<ep>.<router>    router -> routers    core   reservations
    corral.v1.adm.enroll           router -> provisioner core  request/reply
    corral.v1.cmd.<op>.<ep>        -> CORRAL_CMD -> provisioner
    corral.v1.dlq.<op>.<ep>        -> CORRAL_DLQ
    corral.v1.evt.<kind>.<ep>      -> CORRAL_EVENTS            public

The version is a token, so a v2 can run beside v1.
"""

from __future__ import annotations

from .ids import CommandId, EndpointId, WorkerId, endpoint_token

ROOT = "corral.v1"

STREAM_COMMANDS = "CORRAL_CMD"
STREAM_EVENTS = "CORRAL_EVENTS"
STREAM_WORKER_EVENTS = "CORRAL_WEV"
STREAM_ADVISORIES = "CORRAL_ADV"
STREAM_DEAD_LETTERS = "CORRAL_DLQ"

CONSUMER_PROVISIONER = "provisioner"
CONSUMER_DLQ = "dlq"

BUCKET_ENDPOINTS = "corral_endpoints"  #: writer: admin API, CAS
BUCKET_KEYS = "corral_keys"  #: writer: admin API
BUCKET_TEMPLATES = "corral_templates"  #: writer: admin API
BUCKET_WORKERS = "corral_workers"  #: writer: scaler
BUCKET_INSTANCES = "corral_instances"  #: writer: provisioner
BUCKET_SCALER = "corral_scaler"  #: writer: scaler, CAS
BUCKET_DEMAND = "corral_demand"  #: writer: routers, each its own keys
BUCKET_LEASE = "corral_lease"  #: writer: who would lead
BUCKET_IDEM = "corral_idem"  #: writer: provisioner, CAS
BUCKETS = (
    BUCKET_ENDPOINTS,
    BUCKET_KEYS,
    BUCKET_TEMPLATES,
    BUCKET_WORKERS,
    BUCKET_INSTANCES,
    BUCKET_SCALER,
    BUCKET_DEMAND,
    BUCKET_LEASE,
    BUCKET_IDEM,
)

HEARTBEATS = f"{ROOT}.hb.>"
LOADS = f"{ROOT}.load.>"
RESERVATIONS = f"{ROOT}.rsv.>"
COMMANDS = f"{ROOT}.cmd.*.*"
DEAD_LETTERS = f"{ROOT}.dlq.>"
EVENTS = f"{ROOT}.evt.>"
WORKER_EVENTS = f"{ROOT}.wev.>"
ENROLL = f"{ROOT}.adm.enroll"
EVERYTHING = f"{ROOT}.>"


def heartbeat(endpoint_id: EndpointId, worker_id: WorkerId) -> str:
    return f"{ROOT}.hb.{endpoint_token(endpoint_id)}.{worker_id}"


def worker_event(endpoint_id: EndpointId, worker_id: WorkerId, kind: str) -> str:
    return f"{ROOT}.wev.{endpoint_token(endpoint_id)}.{worker_id}.{kind}"


def control(worker_id: WorkerId) -> str:
    return f"{ROOT}.ctl.{worker_id}"


def load(endpoint_id: EndpointId, router: str) -> str:
    return f"{ROOT}.load.{endpoint_token(endpoint_id)}.{router}"


def reservation(endpoint_id: EndpointId, router: str) -> str:
    return f"{ROOT}.rsv.{endpoint_token(endpoint_id)}.{router}"


def command(op: str, endpoint_id: EndpointId) -> str:
    return f"{ROOT}.cmd.{op}.{endpoint_token(endpoint_id)}"


def dead_letter(op: str, endpoint_id: EndpointId) -> str:
    return f"{ROOT}.dlq.{op}.{endpoint_token(endpoint_id)}"


def event(kind: str, endpoint_id: EndpointId) -> str:
    return f"{ROOT}.evt.{kind}.{endpoint_token(endpoint_id)}"


def events_of_kind(kind: str) -> str:
    return f"{ROOT}.evt.{kind}.*"


def events_of_endpoint(endpoint_id: EndpointId) -> str:
    return f"{ROOT}.evt.*.{endpoint_token(endpoint_id)}"


def inbox(name: str) -> str:
    """Inbox prefix of one connection; its permissions are bound to it."""
    return f"_INBOX_{name}"


def endpoint_key(endpoint_id: EndpointId) -> str:
    return endpoint_token(endpoint_id)


#: In BUCKET_ENDPOINTS beside the endpoints: the last id given out, as a JSON integer, taken by CAS.
SEQUENCE_KEY = "seq"


def worker_key(endpoint_id: EndpointId, worker_id: WorkerId) -> str:
    return f"{endpoint_token(endpoint_id)}.{worker_id}"


def demand_key(endpoint_id: EndpointId, router: str) -> str:
    return f"{endpoint_token(endpoint_id)}.{router}"


def lease_key(shard: int) -> str:
    return f"scaler.{shard}"


def intent_key(command_id: CommandId) -> str:
    return command_id.replace(".", "-")


def epoch_key(shard: int) -> str:
    """In BUCKET_IDEM: the highest scaler epoch the provisioner has seen."""
    return f"epoch-{shard}"


def endpoint_token_of(subject: str) -> str:
    """The endpoint token of a subject of any class but ctl, adm: hb, load, rsv carry it third, the rest fourth."""
    parts = subject.split(".")
    return parts[3] if parts[2] in ("hb", "wev", "load", "rsv") else parts[4]
