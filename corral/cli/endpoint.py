"""`corral endpoint ...`"""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
import typer

from corral.errors import ConfigError
from corral.wire import records, schedules, states

from . import settings_options, show
from .command import Session, command
from .times import shown, span_s

Name = Annotated[str, typer.Argument(help="The endpoint's name.", show_default=False)]
_COLUMNS = {
    "NAME": "name",
    "ID": "id",
    "STATE": "state",
    "GROUPS": "groups",
    "READY": "ready",
    "COMING": "coming",
    "COLD": "cold",
}
_STATES = tuple(str(state) for state in states.EndpointState)


def add(app: typer.Typer) -> None:
    nouns = typer.Typer(help="Named pools of workers, and how they scale.", no_args_is_help=True)
    command(nouns, "list", aliases=("ls",))(list_all)
    command(nouns, "get", aliases=("show",))(get)
    command(nouns, "create", more=settings_options.parameters())(create)
    command(nouns, "update", aliases=("scale",), more=settings_options.parameters())(update)
    command(nouns, "delete", aliases=("rm",))(delete)
    command(nouns, "pause")(pause)
    command(nouns, "stop")(stop)
    command(nouns, "resume")(resume)
    command(nouns, "override")(override)
    app.add_typer(nouns, name="endpoint")
    app.add_typer(nouns, name="endpoints", hidden=True)


async def list_all(session: Session) -> None:
    """Every endpoint and how many workers it has."""
    admin = (await session.corral()).admin
    endpoints = await admin.endpoints()
    workers = await admin.workers()
    rows = [_row(endpoint, [w for w in workers if w["endpoint_id"] == endpoint["id"]]) for endpoint in endpoints]
    session.show.table(
        rows, _COLUMNS, raw=[_public(e) for e in endpoints], empty="no endpoint yet; `corral apply -f FILE` makes one"
    )


async def get(session: Session, name: Name) -> None:
    """One endpoint: its settings, groups and workers."""
    admin = (await session.corral()).admin
    endpoint = await admin.endpoint(name)
    groups = [group for group in await admin.groups() if group["endpoint_id"] == endpoint["id"]]
    workers = await admin.workers(endpoint["endpoint_name"])
    raw = {**_public(endpoint), "groups": groups, "workers": workers}
    if session.show.as_json:
        session.show.json(raw)
        return
    session.show.record(
        {
            "name": endpoint["endpoint_name"],
            "id": endpoint["id"],
            "state": show.state(endpoint["endpoint_state"]),
            **{key: endpoint.get(key, "unset") for key in settings_options.names()},
            "revision": endpoint.get("revision"),
            "created": show.ago(endpoint.get("created_at")),
            **_people_said(endpoint),
        }
    )
    for group in groups:
        session.show.out.print()
        session.show.record(
            {
                "group": f"{group['name'] or '-'} (#{group['id']})",
                "template": group["template"]["name"],
                "weight": group["weight"],
            }
        )
    if workers:
        session.show.out.print()
        session.show.table(workers_rows(workers), WORKER_COLUMNS)


async def create(session: Session, name: Name, **settings: Any) -> None:
    """Create an endpoint. It serves once it has a worker group; `corral apply` does both."""
    endpoint_id = await (await session.corral()).admin.create_endpoint(name, settings_options.given(settings))
    session.show.done(f"endpoint {name} is created (id {endpoint_id})", id=endpoint_id)


async def update(
    session: Session,
    name: Name,
    state: Annotated[str | None, typer.Option(help=f"One of {', '.join(_STATES)}.")] = None,
    **settings: Any,
) -> None:
    """Change what is given; the rest stays."""
    if state is not None and state not in _STATES:
        raise ConfigError(f"no state {state!r}", f"it is one of {', '.join(_STATES)}")
    changes = settings_options.given(settings) | ({"endpoint_state": state} if state else {})
    if not changes:
        raise ConfigError("nothing to change was given", "for example --max-workers 5; `corral endpoint update --help` lists all")
    after = await (await session.corral()).admin.update_endpoint(name, changes)
    session.show.done(f"endpoint {name} is changed: {', '.join(sorted(changes))}", endpoint=_public(after))


async def delete(
    session: Session, name: Name, *, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False
) -> None:
    """Delete an endpoint; its workers are drained and destroyed."""
    if not yes and not session.show.as_json:
        typer.confirm(f"delete endpoint {name} and destroy its workers?", abort=True, err=True)
    await (await session.corral()).admin.delete_endpoint(name)
    session.show.done(f"endpoint {name} is deleted; its workers will be destroyed")


async def pause(session: Session, name: Name) -> None:
    """Suspend scaling: workers stay as they are and go on serving."""
    await _to(session, name, "suspended", "scaling is suspended; workers stay as they are")


async def stop(session: Session, name: Name) -> None:
    """Make all workers cold. Requests are refused until it is resumed."""
    await _to(session, name, "stopped", "all workers go cold")


async def resume(session: Session, name: Name) -> None:
    """Active again after pause or stop."""
    await _to(session, name, "active", "it serves and scales again")


async def override(
    session: Session,
    name: Name,
    hot_min: Annotated[int | None, typer.Option("--min", min=0, help="At least so many hot workers.")] = None,
    hot_max: Annotated[int | None, typer.Option("--max", min=0, help="At most so many hot workers.")] = None,
    lasts: Annotated[str, typer.Option("--for", help="How long: 30m, 2h, 1d. It always ends.")] = "1h",
    reason: Annotated[str, typer.Option(help="Why; shown to everybody who asks.")] = "",
    *,
    clear: Annotated[bool, typer.Option("--clear", help="End the one that holds.")] = False,
) -> None:
    """For a while, say yourself how many workers are hot. Limits of the settings stay law; a new one replaces the one before."""
    admin = (await session.corral()).admin
    if clear:
        if hot_min is not None or hot_max is not None:
            raise ConfigError("--clear goes without --min and --max", "clear it, or set another that replaces it")
        held = await admin.clear_override(name)
        session.show.done(
            f"endpoint {name}: " + (f"the override of {held['owner']} is over" if held else "no override held"), cleared=held
        )
        return
    if hot_min is None and hot_max is None:
        raise ConfigError("nothing to override was given", "say --min N, --max N or both; --clear ends the one that holds")
    if not reason.strip():
        raise ConfigError("an override needs a reason", '--reason "launch day"; whoever wonders tonight will read it')
    fields = {"hot_min": hot_min, "hot_max": hot_max, "for_s": span_s(lasts), "reason": reason}
    held = await admin.override(name, fields)
    words = msgspec.convert(held, records.Override).says()
    session.show.done(f"endpoint {name}: {words} until {shown(held['expires_at'])}", override=held)


def _people_said(endpoint: dict[str, Any]) -> dict[str, str]:
    """Schedules and the override, in words."""
    found = {}
    for number, given in enumerate(endpoint.get("schedules", ())):
        schedule = msgspec.convert(given, records.Schedule)
        text = f"at least {schedule.hot_min} hot for {show.seconds(schedule.lasts_s)} from {schedule.cron} ({schedule.time_zone})"
        found["schedules" if number == 0 else f"schedules {number + 1}"] = f"{text}; {_when(schedule)}"
    if "override" in endpoint:
        held = msgspec.convert(endpoint["override"], records.Override)
        found["override"] = f"{held.says()}, by {held.owner}, until {shown(held.expires_at)}: {held.reason}"
    return found


def _when(schedule: records.Schedule) -> str:
    """By the clock of this machine."""
    now = time.time()
    try:
        span = schedules.span(schedule, now)
    except schedules.ScheduleError as error:
        return str(error)
    if span is None:
        return "never"
    return f"holds until {shown(span.end_at)}" if span.holds(now) else f"next {shown(span.begin_at)}"


async def _to(session: Session, name: str, state: str, what: str) -> None:
    await (await session.corral()).admin.update_endpoint(name, {"endpoint_state": state})
    session.show.done(f"endpoint {name}: {what}", state=state)


def _row(endpoint: dict[str, Any], workers: list[dict[str, Any]]) -> dict[str, Any]:
    held = [states.WorkerState(worker["state"]) for worker in workers]
    return {
        "name": endpoint["endpoint_name"],
        "id": endpoint["id"],
        "state": show.state(endpoint["endpoint_state"]),
        "groups": len(endpoint.get("groups", ())),
        "ready": held.count(states.WorkerState.READY),
        "coming": sum(state in states.COMING for state in held),
        "cold": held.count(states.WorkerState.STOPPED),
    }


def _public(endpoint: dict[str, Any]) -> dict[str, Any]:
    """Without the endpoint's own key: what is printed ends up in logs."""
    return {key: value for key, value in endpoint.items() if key != "api_key"}


WORKER_COLUMNS = {
    "WORKER": "id",
    "ENDPOINT": "endpoint",
    "GROUP": "group_id",
    "STATE": "state",
    "SINCE": "since",
    "LOAD": "load",
    "BUSY": "inflight",
    "QUEUED": "queued",
    "PERF": "perf",
    "URL": "url",
    "WHY": "why",
}


def workers_rows(workers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As the table shows them."""
    return [
        {
            **worker,
            "state": show.state(worker["state"] + (" (suspect)" if worker.get("suspect") else "")),
            "since": show.ago(worker.get("state_at")),
            "why": (worker.get("failure") or {}).get("cause", ""),
        }
        for worker in workers
    ]
