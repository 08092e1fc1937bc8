"""Write schemas/generated/: JSON Schema 2020-12 of every message, and an AsyncAPI 3 document of every subject.

`make schemas` runs it; a test fails when the files are stale. Integrators in any language read these files instead of our code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from . import commands, events, http, records, signals, subjects, ticket

HERE = Path(__file__).parent / "generated"

#: file name -> the structs it describes
FILES: dict[str, tuple[type, ...]] = {
    "events.schema.json": events.AnyEvent.__args__,
    "commands.schema.json": (*commands.AnyCommand.__args__, commands.DeadLetter),
    "records.schema.json": (
        records.EndpointRecord,
        records.ApiKeyRecord,
        records.InstanceRecord,
        records.WorkerRecord,
        records.DemandMark,
        records.Intent,
        records.LeaseRecord,
        records.Template,
    ),
    "signals.schema.json": (
        signals.Heartbeat,
        signals.DemandReport,
        signals.Reservations,
        signals.ControlOrder,
        signals.ControlReply,
        signals.EnrollRequest,
        signals.EnrollReply,
        signals.WorkerBundle,
    ),
    "http.schema.json": (
        http.RouteRequest,
        http.RouteReady,
        http.RouteWaiting,
        http.Problem,
        http.Envelope,
        http.WorkerStatus,
        http.FinishedRequests,
    ),
    "ticket.schema.json": (ticket.TicketClaims, ticket.JwsHeader, ticket.Jwks),
}

#: channel -> (address with parameters, what it is for, payload structs, who sends, how it travels)
CHANNELS: dict[str, tuple[str, str, tuple[type, ...], str, str]] = {
    "heartbeats": (
        f"{subjects.ROOT}.hb.{{endpoint}}.{{worker}}",
        "Full state of a worker, once a second and at once on a change of state.",
        (signals.Heartbeat,),
        "worker; a router for one that does not speak NATS",
        "core, at most once",
    ),
    "demand": (
        f"{subjects.ROOT}.load.{{endpoint}}.{{router}}",
        "What a router is asked for and cannot place.",
        (signals.DemandReport,),
        "router",
        "core, at most once",
    ),
    "reservations": (
        f"{subjects.ROOT}.rsv.{{endpoint}}.{{router}}",
        "Load promised by tickets and not yet reported.",
        (signals.Reservations,),
        "router",
        "core, at most once",
    ),
    "control": (
        f"{subjects.ROOT}.ctl.{{worker}}",
        "Orders to one worker; answered with ControlReply.",
        (signals.ControlOrder,),
        "scaler, provisioner",
        "core, request and reply",
    ),
    "enroll": (
        subjects.ENROLL,
        "A machine that somebody brings; answered with EnrollReply.",
        (signals.EnrollRequest,),
        "router",
        "core, request and reply",
    ),
    "commands": (
        f"{subjects.ROOT}.cmd.{{op}}.{{endpoint}}",
        "What should be. Work queue: each is carried out once, or ends as a dead letter.",
        commands.AnyCommand.__args__,
        "scaler, operators through the router",
        f"stream {subjects.STREAM_COMMANDS}, Nats-Msg-Id = command_id",
    ),
    "deadLetters": (
        f"{subjects.ROOT}.dlq.{{op}}.{{endpoint}}",
        "Commands that will not be carried out, with the cause.",
        (commands.DeadLetter,),
        "provisioner",
        f"stream {subjects.STREAM_DEAD_LETTERS}",
    ),
    "events": (
        f"{subjects.ROOT}.evt.{{kind}}.{{endpoint}}",
        "What happened: the public contract for integrators. Skip kinds and fields you do not know.",
        events.AnyEvent.__args__,
        "scaler, provisioner, router",
        f"stream {subjects.STREAM_EVENTS}, Nats-Msg-Id = id",
    ),
}

_PARAMETERS = {
    "endpoint": "Endpoint token: e and digits.",
    "worker": "Worker id: w and digits.",
    "router": "Name of a router replica.",
    "op": "Operation of the command.",
    "kind": "Kind of the event.",
}


def tag_or_name(struct: type) -> str:
    """What a message is called on the wire when it has a tag, else its type's name."""
    config = getattr(struct, "__struct_config__", None)
    tag = config.tag if config is not None else None
    return tag if isinstance(tag, str) else struct.__name__


def json_schema(structs: tuple[type, ...]) -> dict[str, Any]:
    roots, components = msgspec.json.schema_components(structs, ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "oneOf": list(roots),
        "$defs": dict(sorted(components.items())),
    }


def asyncapi() -> dict[str, Any]:
    everything = tuple(dict.fromkeys(struct for _, _, structs, _, _ in CHANNELS.values() for struct in structs))
    _, components = msgspec.json.schema_components(everything, ref_template="#/components/schemas/{name}")
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for name, (address, purpose, structs, sender, carriage) in CHANNELS.items():
        for struct in structs:
            messages[struct.__name__] = {
                "name": tag_or_name(struct),
                "contentType": "application/json",
                "payload": {"$ref": f"#/components/schemas/{struct.__name__}"},
            }
        channel: dict[str, Any] = {
            "address": address,
            "description": f"{purpose} Sent by: {sender}. Carried by: {carriage}.",
            "messages": {s.__name__: {"$ref": f"#/components/messages/{s.__name__}"} for s in structs},
        }
        used = [key for key in _PARAMETERS if f"{{{key}}}" in address]
        if used:
            channel["parameters"] = {key: {"description": _PARAMETERS[key]} for key in used}
        channels[name] = channel
        operations[f"receive{name[0].upper()}{name[1:]}"] = {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{name}"},
            "summary": purpose,
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Corral on NATS",
            "version": "1.0.0",
            "description": "Subjects of a Corral control plane. The version is a token of each subject; within v1 messages only grow.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": dict(sorted(messages.items())), "schemas": dict(sorted(components.items()))},
    }


def documents() -> dict[str, bytes]:
    """File name -> content, exactly as written."""
    made = {name: json_schema(structs) for name, structs in FILES.items()}
    made["asyncapi.json"] = asyncapi()
    return {name: msgspec.json.format(msgspec.json.encode(made[name]), indent=2) + b"\n" for name in made}


def main() -> None:
    HERE.mkdir(exist_ok=True)
    for name, content in documents().items():
        (HERE / name).write_bytes(content)
        print(f"schemas/generated/{name}  {len(content)} bytes")


if __name__ == "__main__":
    main()
