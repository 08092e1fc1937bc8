"""`corral replay --verify`"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from corral.errors import ConfigError, CorralError
from corral.replaying import UNCHECKED, Finding, replayer
from corral.wire import codec, events

from .command import Session, command
from .times import moment, shown

EQUAL, WRONG, UNUSABLE = 0, 1, 2
_MAX_REASONS = 50


def add(app: typer.Typer) -> None:
    command(app, "replay")(replay)


async def replay(
    session: Session,
    endpoint: Annotated[str | None, typer.Argument(help="Only of this endpoint.", show_default=False)] = None,
    since: Annotated[str, typer.Option("--from", help="Begin: 2h (ago), or a time such as 2026-11-25T10:00 (UTC).")] = "",
    until: Annotated[str, typer.Option("--to", help="End, likewise.")] = "",
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Events as JSON lines, or - for stdin; needs no router.")
    ] = None,
    *,
    verify: Annotated[bool, typer.Option("--verify", help="Decide again from every recorded input, and compare.")] = False,
) -> int:
    """Hold recorded decisions against their inputs, bit for bit. Exits with 0 when all are equal, 1 when one is not, 2 when nothing
    could be checked.
    """
    try:
        if not verify:
            raise ConfigError("say what to do with the decisions", "corral replay --verify decides again and compares")
        now = time.time()
        span = (moment(since, now) if since else 0.0, moment(until, now) if until else float("inf"))
        if span[0] >= span[1]:
            raise ConfigError("--from is not before --to", "2h means two hours ago")
        source = _from_file(file, endpoint) if file is not None else _from_router(session, endpoint, span[0])
        summary = await _verify(session, source, span)
        if not summary.decisions:
            raise ConfigError(
                "no decision was found, so nothing was verified",
                "name another time or endpoint; `corral events tail` shows what is there",
            )
    except CorralError as error:
        session.show.error(error)
        return UNUSABLE
    if session.show.as_json:
        session.show.json(summary.as_json())
    else:
        _tell(session, summary)
    return WRONG if summary.first_wrong is not None else EQUAL


class _Summary:
    def __init__(self) -> None:
        self.decisions = 0
        self.outcomes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()  #: why what could not be checked could not
        self.endpoints: set[int] = set()
        self.first_at = self.last_at = 0.0
        self.restarts = 0
        self.first_wrong: Finding | None = None

    def add(self, finding: Finding) -> None:
        self.decisions += 1
        self.outcomes[finding.outcome] += 1
        self.restarts += finding.anew
        if finding.is_wrong and self.first_wrong is None:
            self.first_wrong = finding
        if finding.outcome == UNCHECKED and (finding.text in self.reasons or len(self.reasons) < _MAX_REASONS):
            self.reasons[finding.text] += 1
        if finding.endpoint_id:
            self.endpoints.add(finding.endpoint_id)
            self.first_at = min(self.first_at or finding.at, finding.at)
            self.last_at = max(self.last_at, finding.at)

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.first_wrong is None,
            "decisions": self.decisions,
            "endpoints": len(self.endpoints),
            "from": self.first_at,
            "to": self.last_at,
            "outcomes": dict(self.outcomes),
            "unchecked": dict(self.reasons),
            "restarts": self.restarts,
            "first_wrong": self.first_wrong,
        }


async def _verify(session: Session, source: AsyncIterator[bytes], span: tuple[float, float]) -> _Summary:
    """Raises CorralError."""
    summary = _Summary()
    quiet = session.show.as_json or not sys.stderr.isatty()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with replayer() as room:
        with Progress(*columns, console=session.show.err, transient=True, disable=quiet) as progress:
            task = progress.add_task("decisions", total=None)
            async for line in source:
                at = _at(line)
                if at is not None and not span[0] <= at <= span[1]:
                    continue
                summary.add(await room.check(line))
                progress.update(task, advance=1)
    return summary


class _At(msgspec.Struct):
    at: float


def _at(line: bytes) -> float | None:
    """When it was told; None for what cannot be read, which is found out elsewhere."""
    try:
        return msgspec.json.decode(line, type=_At).at
    except msgspec.DecodeError:
        return None


async def _from_router(session: Session, endpoint: str | None, since: float) -> AsyncIterator[bytes]:
    admin = (await session.corral()).admin
    async for text in admin.event_texts(since=since, follow=False, endpoint=endpoint, kind="decision"):
        yield text


async def _from_file(path: Path, endpoint: str | None) -> AsyncIterator[bytes]:
    """Decisions of a file. An endpoint's name is known where the file has an event that tells it."""
    found: list[tuple[bytes, int | None]] = []  #: (line, endpoint id); None: neither is it a decision, nor may it be passed over
    ids = {endpoint, (endpoint or "").removeprefix("e")}
    for line in _lines(path):
        try:
            event = codec.event(line)
        except msgspec.DecodeError:
            found.append((line, None))
            continue
        if isinstance(event, events.EndpointCreated | events.EndpointChanged) and event.name == endpoint:
            ids.add(str(event.endpoint_id))
        if isinstance(event, events.Decided):
            found.append((line, event.endpoint_id))
    for line, endpoint_id in found:
        if endpoint is None or endpoint_id is None or str(endpoint_id) in ids:
            yield line


def _lines(path: Path) -> list[bytes]:
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}", "`corral events tail --json --no-follow` writes such a file"
        ) from error
    return [line for line in data.splitlines() if line.strip()]


def _tell(session: Session, summary: _Summary) -> None:
    out = session.show.out
    count = f"{summary.decisions} {'decision' if summary.decisions == 1 else 'decisions'}"
    where = f"{len(summary.endpoints)} {'endpoint' if len(summary.endpoints) == 1 else 'endpoints'}"
    out.print(f"{count} of {where}, {shown(summary.first_at)} to {shown(summary.last_at)}")
    for outcome, number in summary.outcomes.most_common():
        out.print(f"  {number:>6}  {_WORDS.get(outcome, outcome)}", style=_STYLES.get(outcome))
    for reason, number in summary.reasons.most_common():
        out.print(f"          {number} × {reason}", style="dim", markup=False)
    if summary.restarts:
        session.show.note(f"chains that began anew, because a memory was lost: {summary.restarts}")
    wrong = summary.first_wrong
    if wrong is None:
        return
    out.print(
        f"the first: {wrong.decision_id or 'a line'}{f' of {shown(wrong.at)}' if wrong.at else ''}: {wrong.text}",
        style="bold red",
        markup=False,
    )
    if wrong.field:
        out.print(f"  {wrong.field} told:    {wrong.told}", markup=False, soft_wrap=True)
        out.print(f"  {wrong.field} derived: {wrong.derived}", markup=False, soft_wrap=True)


_WORDS = {
    "equal": "equal: their inputs give them again, and each follows the one before",
    "unchecked": "not checkable by this version",
    "different": "different from what their inputs give",
    "broken": "do not follow the one before",
    "missing": "with decisions missing before them",
    "unreadable": "unreadable",
}
_STYLES = {"equal": "green", "unchecked": "yellow", "different": "red", "broken": "red", "missing": "red", "unreadable": "red"}
