"""An event as one line for a person."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from rich.text import Text

from corral.wire import codec, events

_QUIET = frozenset(
    {"id", "at", "endpoint_id", "worker_id", "group_id", "kind", "record", "actions", "inputs", "candidates", "reason"}
)
_COLOURS = {
    events.Decided: "cyan",
    events.WorkerReady: "green",
    events.WorkerFailed: "red",
    events.WorkerLost: "red",
    events.WorkerSuspected: "yellow",
    events.GroupHalted: "bold red",
    events.CommandDead: "bold red",
    events.CommandRefused: "yellow",
    events.TelemetryFrozen: "bold yellow",
    events.OrphanRemoved: "yellow",
}


def line(event: events.AnyEvent | codec.Unknown) -> Text:
    """Time, who, what, and the reason in words."""
    if isinstance(event, codec.Unknown):
        return Text(f"{'':12} {event.kind} (of a newer version; --json shows it)", style="dim")
    at = time.strftime("%H:%M:%S", time.localtime(event.at)) + f".{int(event.at % 1 * 1000):03d}"
    return Text.assemble(
        (at, "dim"),
        " ",
        (f"{who(event):<18}", "bold"),
        " ",
        (events.kind_of(event), _COLOURS.get(type(event), "")),
        "  ",
        what(event),
    )


def who(event: events.AnyEvent) -> str:
    """The worker, or else the endpoint."""
    return event.worker_id if isinstance(event, events.WorkerEvent) else f"e{event.endpoint_id}"


def what(event: events.AnyEvent) -> str:
    """The part that differs by kind, as one short sentence."""
    match event:
        case events.Decided():
            acts = ", ".join(_act(action) for action in event.actions) or "hold"
            return f"{acts}: {event.reason} [{event.why}; hot {event.hot_before} -> {event.hot_wanted}]"
        case events.WorkerChanged():
            return f"{event.before or '?'} -> {event.state} after {event.phase_s:.1f} s"
        case events.WorkerReady():
            return f"at {event.url}, {event.perf:.0f} units/s, {event.cold_start_s:.1f} s after it was asked for"
        case events.WorkerFailed() | events.CommandDead():
            return f"{event.failure.cause}: {event.failure.message}"
        case events.WorkerDrained():
            return f"waited {event.waited_s:.1f} s, {event.inflight} in flight"
        case events.EndpointChanged():
            return f"{event.name}: {_changes(event)}" + (f": {event.reason}" if event.reason else "")
        case events.GroupChanged():
            return f"group {event.group_id}: {_changes(event)}"
        case events.GroupCreated():
            return f"group {event.group_id}" + (f" of template {event.template}" if event.template else "") + _by(event.by)
        case events.GroupDeleted():
            return f"group {event.group_id}{_by(event.by)}"
        case events.CommandRefused():
            return f"{event.command_id}: {event.reason}"
        case events.GroupHalted():
            failure, cost = event.failure, f"${event.cost_usd:.2f}"
            return f"group {event.group_id}: {event.failures} failed starts in a row, {cost}: {failure.cause}: {failure.message}"
        case events.GroupResumed():
            return f"group {event.group_id}, by {event.by}" + (f": {event.reason}" if event.reason else "")
        case events.DemandWaiting():
            return f"{event.waiting} waiting, {event.units:g} units"
        case _:
            values: dict[str, Any] = msgspec.to_builtins(event)
            return ", ".join(
                f"{key} {_words(value)}"
                for key, value in values.items()
                if key not in _QUIET and value not in (None, "", 0, (), [])
            )


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _changes(event: events.EndpointChanged | events.GroupChanged) -> str:
    named = f"changed {_words(event.changed)}" if event.changed else f"revision {event.revision}"
    return named + _by(event.by)


def _by(who: str) -> str:
    return f", by {who}" if who else ""


def _act(action: events.Action) -> str:
    return f"{action.op} {action.worker_id}" if action.worker_id else action.op
