"""`corral explain ...` and `corral why`"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import typer
from rich.text import Text

from corral.admin import Admin
from corral.errors import ConfigError
from corral.explain import Explanation, Seen, explain, ids_of
from corral.replaying import Finding, replayer
from corral.wire import codec, events

from . import show
from .command import Session, command
from .times import shown

#: Decisions are recorded every five minutes at least.
_RECENT_S = 900.0
_CHECKED = {
    "equal": ("✓ its recorded input gives it again, bit for bit", "green"),
    "unchecked": ("? this version cannot check it", "yellow"),
}


def add(app: typer.Typer) -> None:
    nouns = typer.Typer(help="Decisions in words.", no_args_is_help=True)
    command(nouns, "decision")(decision)
    command(nouns, "endpoint")(of_endpoint)
    app.add_typer(nouns, name="explain")
    command(app, "why")(of_endpoint)


async def decision(
    session: Session, decision_id: Annotated[str, typer.Argument(help="As events show it, such as e42.g17.", show_default=False)]
) -> None:
    """One decision: what was seen, considered and done, and why."""
    ids = ids_of(decision_id)
    if ids is None:
        raise ConfigError(
            f"not the id of a decision: {decision_id!r}",
            "it looks like e42.g17; `corral events tail --kind decision --json` shows them",
        )
    endpoint_id, generation = ids
    admin = (await session.corral()).admin
    found = await _find(_decisions(admin, str(endpoint_id), 0.0), generation)
    if found is None:
        raise ConfigError(
            f"there is no decision {decision_id} in the stream of events",
            "it is forgotten after a while; look at --from of `corral replay --verify`",
        )
    await _explain(session, admin, *found)


async def of_endpoint(
    session: Session, name: Annotated[str, typer.Argument(help="The endpoint's name.", show_default=False)]
) -> None:
    """Why an endpoint has the workers it has: its newest decision."""
    admin = (await session.corral()).admin
    found = await _newest(_decisions(admin, name, -_RECENT_S)) or await _newest(_decisions(admin, name, 0.0))
    if found is None:
        raise ConfigError(f"nothing was decided about endpoint {name} yet", "does the scaler run? `corral doctor` looks")
    if found[1] is None and found[0].generation > 1:
        found = await _find(_decisions(admin, name, 0.0), found[0].generation) or found
    await _explain(session, admin, *found)


Found = tuple[events.Decided, events.Decided | None]


async def _decisions(admin: Admin, endpoint: str, since: float) -> AsyncIterator[events.Decided]:
    async for event in admin.events(since=since, follow=False, endpoint=endpoint, kind="decision"):
        if isinstance(event, events.Decided):
            yield event


async def _newest(decisions: AsyncIterator[events.Decided]) -> Found | None:
    """(the last one, the one before it if it is there)."""
    last: Found | None = None
    async for event in decisions:
        if last is not None and event.generation == last[0].generation:
            last = (_fuller(last[0], event), last[1])
        else:
            last = (event, last[0] if last is not None and last[0].generation == event.generation - 1 else None)
    return last


async def _find(decisions: AsyncIterator[events.Decided], generation: int) -> Found | None:
    before: events.Decided | None = None
    found: events.Decided | None = None
    async for event in decisions:
        if event.generation == generation - 1:
            before = _fuller(before, event)
        elif event.generation == generation:
            found = _fuller(found, event)
    return None if found is None else (found, before)


def _fuller(one: events.Decided | None, other: events.Decided) -> events.Decided:
    """Of a decision that was told twice, by two leaders, the one with its input."""
    return one if one is not None and bytes(one.record) != b"null" else other


async def _explain(session: Session, admin: Admin, event: events.Decided, before: events.Decided | None) -> None:
    async with replayer() as room:
        found = await room.check(codec.encode(event))
    names = {endpoint["id"]: endpoint["endpoint_name"] for endpoint in await admin.endpoints()}
    told = explain(event, before, endpoint=names.get(event.endpoint_id, f"e{event.endpoint_id}"), check=found)
    if session.show.as_json:
        session.show.json(told)
    else:
        _print(session, told)


def _print(session: Session, told: Explanation) -> None:
    out = session.show.out
    out.print(Text.assemble((told.decision_id, "bold"), f"  {told.endpoint}  {shown(told.at)} ({show.ago(told.at)})"))
    hot, cold = _moves(told.hot_before, told.hot_wanted), _moves(told.cold_before, told.cold_wanted)
    out.print(Text.assemble(("why   ", "bold"), (told.why, "cyan"), f": {told.sentence}"), soft_wrap=True)
    out.print(Text.assemble(("sizes ", "bold"), f"hot {hot}, cold {cold}"))
    out.print()
    out.print("done", style="bold")
    for action in told.done:
        where = f" (group {action.group_id})" if action.group_id else ""
        out.print(Text(f"  {action.op} {action.worker_id or ''}{where}: {action.why}: {action.reason}"), soft_wrap=True)
    if not told.done:
        out.print("  nothing")
    out.print("\nseen", style="bold")
    if told.seen:
        columns = {"": "name", "VALUE": "value", "UNIT": "unit", "AGE": "age", "BEFORE": "before"}
        session.show.table([_row(seen) for seen in told.seen], columns)
    else:
        out.print("  nothing")
    if told.considered:
        out.print("\nconsidered", style="bold")
        for candidate in told.considered:
            out.print(Text(f"  {candidate}"), soft_wrap=True)
    _print_before(session, told)
    out.print("\nhow", style="bold")
    out.print(
        Text(f"  policy {told.policy} (constants {told.policy_hash}), leader's epoch {told.epoch}, generation {told.generation}")
    )
    out.print(Text(f"  looked at again after {show.seconds(told.look_again_s)} at the latest"))
    for read in told.read:
        span = f"{read.first_seq}" if read.first_seq == read.last_seq else f"{read.first_seq} to {read.last_seq}"
        out.print(Text(f"  new in {read.stream} since the decision before: sequence {span}, {read.messages} in all"))
    if told.check is not None:
        _print_check(session, told.check)


def _print_before(session: Session, told: Explanation) -> None:
    out = session.show.out
    if not told.before_id:
        session.show.out.print("\nthe decision before is not in the stream any more", style="dim")
        return
    out.print(
        Text.assemble(("\nsince the decision before", "bold"), f" ({told.before_id}, {show.seconds(told.before_s)} earlier)")
    )
    for change in told.changes:
        out.print(Text(f"  {change}"))
    if not told.changes:
        out.print("  only inputs changed" if any(seen.changed for seen in told.seen) else "  nothing changed")


def _print_check(session: Session, check: Finding) -> None:
    words, style = _CHECKED.get(check.outcome, ("✗ its recorded input gives something else", "bold red"))
    detail = f": {check.text}" if check.text and check.outcome != "equal" else ""
    session.show.out.print(Text(f"  {words}{detail}", style=style), soft_wrap=True)
    if check.field:
        session.show.out.print(Text(f"    {check.field}: told {check.told}, derived {check.derived}"), soft_wrap=True)


def _row(seen: Seen) -> dict[str, object]:
    return {
        "name": f"  {seen.name}",
        "value": Text("no data" if seen.value is None else f"{seen.value:.6g}", style="bold" if seen.changed else ""),
        "unit": seen.unit,
        "age": "" if seen.age_s is None else show.seconds(seen.age_s),
        "before": _before(seen),
    }


def _before(seen: Seen) -> str:
    if not seen.changed:
        return ""
    return "not looked at" if seen.is_new else "no data" if seen.before is None else f"{seen.before:.6g}"


def _moves(before: int, wanted: int) -> str:
    return f"{before}" if before == wanted else f"{before} -> {wanted}"
