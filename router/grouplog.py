"""How the starts of each group's workers went in the last day: how long they took, why they failed. From the events, so that a router that
has just started knows as much as the others.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import msgspec
import structlog

from runtime.bus import Bus
from runtime.errors import BusError
from schemas import codec, events, subjects
from schemas.ids import GroupId
from schemas.reasons import Cause, Phase

log = structlog.get_logger()

STARTS_PER_GROUP = 1000
KEEP_S = 86400.0
RETRY_S = 2.0
_KINDS = ("worker_ready", "worker_failed", "command_dead")


class Start(msgspec.Struct, frozen=True):
    """One start that came to its end."""

    at: float  #: unix s
    took_s: float = 0.0  #: from the command to ready
    from_cold: bool = False
    failed: Cause | None = None  #: None: it became ready


class GroupLog:
    """Fed by the events stream, from `since_at` (unix s) on."""

    def __init__(self, bus: Bus, since_at: float) -> None:
        self._bus = bus
        self._since_at = since_at
        self._starts: dict[GroupId, OrderedDict[str, Start]] = {}

    async def follow(self) -> None:
        """Until cancelled; comes back by itself when the bus was away."""
        kinds = [subjects.events_of_kind(kind) for kind in _KINDS]
        while True:
            try:
                await self._bus.tail(subjects.STREAM_EVENTS, kinds, self.add, since_at=self._since_at)
            except BusError as error:
                log.info("starts_not_followed", error=str(error))
            await asyncio.sleep(RETRY_S)

    def add(self, _subject: str, data: bytes, _seq: int) -> None:
        """One event."""
        try:
            event = codec.event(data)
        except msgspec.DecodeError as error:
            log.info("unreadable_event", error=str(error))
            return
        match event:
            case events.WorkerReady(cold_start_s=took_s) if took_s > 0:
                self._note(event.group_id, event.id, Start(event.at, took_s, event.from_cold))
            case events.WorkerFailed() if (event.phase or event.failure.phase) not in (Phase.SERVE, Phase.STOP):
                self._note(event.group_id, event.id, Start(event.at, failed=event.failure.cause))
            case events.CommandDead(op="create" | "start"):
                self._note(event.group_id, event.id, Start(event.at, failed=event.failure.cause))
            case _:
                pass

    def starts(self, group_id: GroupId, since: float) -> list[Start]:
        """Those that ended at `since` (unix s) or later, oldest first."""
        return [start for start in self._starts.get(group_id, {}).values() if start.at >= since]

    def _note(self, group_id: GroupId, event_id: str, start: Start) -> None:
        """Read again after an outage, an event changes nothing."""
        known = self._starts.setdefault(group_id, OrderedDict())
        known[event_id] = start
        while len(known) > STARTS_PER_GROUP or next(iter(known.values())).at < start.at - KEEP_S:
            known.popitem(last=False)
