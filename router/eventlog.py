"""The last events of each endpoint as lines of text, for those who ask for a log; and which groups are halted, for those
who wait and ask why.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import structlog

from runtime.bus import Bus
from runtime.errors import BusError
from schemas import codec, events, subjects
from schemas.ids import EndpointId, GroupId

from .switchboard import Switchboard

log = structlog.get_logger()

LINES_PER_ENDPOINT = 500
LEVELS = ("info0", "info1", "trace", "debug")
#: What everybody wants to see; decisions come next, the rest is detail.
INFO0 = frozenset(
    {"endpoint_created", "endpoint_changed", "endpoint_deleted", "group_created", "group_changed", "group_deleted", "group_halted",
     "group_resumed", "worker_ready", "worker_failed", "worker_lost", "command_dead"}
)  # fmt: skip
TRACE = frozenset({"worker_changed", "worker_suspected", "command_refused"})
RETRY_S = 2.0


class _Told(msgspec.Struct, frozen=True):
    """What any event may carry, as far as a line of text needs it."""

    kind: str
    at: float
    endpoint_id: EndpointId
    worker_id: str = ""
    group_id: GroupId = GroupId(0)
    reason: str = ""
    state: str = ""
    failure: dict[str, msgspec.Raw] | None = None


class Line(msgspec.Struct, frozen=True):
    level: int  #: of LEVELS
    group_id: GroupId
    text: str


_told = msgspec.json.Decoder(_Told).decode


class EventLog:
    """Fed by the events stream, from `since_at` (unix s) on."""

    def __init__(self, bus: Bus, board: Switchboard, since_at: float) -> None:
        self._bus = bus
        self._board = board
        self._since_at = since_at
        self._lines: dict[EndpointId, deque[Line]] = {}

    async def follow(self) -> None:
        """Until cancelled; comes back by itself when the bus was away."""
        while True:
            await self._tail([subjects.EVENTS], self.add, self._since_at)

    async def follow_halts(self) -> None:
        """As follow(), but all there ever were: a group may have been halted for long."""
        kinds = [subjects.events_of_kind(kind) for kind in ("group_halted", "group_resumed")]
        while True:
            await self._tail(kinds, self.halt, 0.0)

    async def _tail(self, of: list[str], on_message: Callable[[str, bytes, int], None], since_at: float) -> None:
        try:
            await self._bus.tail(subjects.STREAM_EVENTS, of, on_message, since_at=since_at)
        except BusError as error:
            log.info("events_not_followed", error=str(error))
        await asyncio.sleep(RETRY_S)

    def halt(self, _subject: str, data: bytes, _seq: int) -> None:
        """A group was halted or goes on."""
        try:
            told = codec.event(data)
        except msgspec.DecodeError as error:
            log.info("unreadable_event", error=str(error))
            return
        if isinstance(told, events.GroupHalted | events.GroupResumed):
            self._board.halted(told)

    def add(self, _subject: str, data: bytes, _seq: int) -> None:
        """One event."""
        try:
            told = _told(data)
        except msgspec.DecodeError as error:
            log.info("unreadable_event", error=str(error))
            return
        self._since_at = max(self._since_at, told.at)
        if told.kind == "endpoint_deleted":
            self._lines.pop(told.endpoint_id, None)
            return
        lines = self._lines.setdefault(told.endpoint_id, deque(maxlen=LINES_PER_ENDPOINT))
        lines.append(Line(level_of(told.kind), told.group_id, text_of(told)))

    def by_level(self, endpoint_id: EndpointId, group_id: GroupId | None, tail: int) -> dict[str, str]:
        """Vast's form: one text per level, all four always there. Each level has what the coarser ones have, and more."""
        lines = [line for line in self._lines.get(endpoint_id, ()) if group_id is None or line.group_id == group_id]
        return {level: "\n".join([line.text for line in lines if line.level <= n][-tail:]) for n, level in enumerate(LEVELS)}


def level_of(kind: str) -> int:
    """Index in LEVELS."""
    if kind in INFO0:
        return 0
    if kind in TRACE:
        return 2
    return 1 if kind == "decision" or kind.startswith("worker_") else 3


def text_of(told: _Told) -> str:
    at = datetime.fromtimestamp(told.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    cause = ""
    if told.failure is not None and "cause" in told.failure:
        cause = str(msgspec.json.decode(told.failure["cause"]))
    parts = (at, told.kind, told.worker_id, told.state, cause, told.reason)
    return " ".join(part for part in parts if part)
