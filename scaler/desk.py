"""What the shell keeps about one endpoint beside its state: where it is stored, what was sent, what was written."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import structlog

from schemas.events import Decided, StreamRead
from schemas.ids import CommandId, EndpointId, GroupId, WorkerId
from schemas.records import EndpointRecord, InstanceRecord, WorkerRecord
from schemas.signals import Heartbeat

from . import skew, traffic
from . import state as fold
from .observations import ClockStepped, Observation
from .types import EndpointState, Policy

log = structlog.get_logger()

#: Of scalers whose clocks differ by more than this, one is wrong.
_CLOCKS_DIFFER_S = 5.0


class Desk:
    """One endpoint. Changed by the tasks of one reign, on one event loop."""

    def __init__(self, endpoint_id: EndpointId, policy: Policy, now: float) -> None:
        self.id = endpoint_id
        self.state: EndpointState = fold.initial(endpoint_id, now)
        self.endpoint: EndpointRecord | None = None
        self.instances: dict[WorkerId, InstanceRecord] = {}
        self.beats: dict[WorkerId, Heartbeat] = {}
        self.written: dict[WorkerId, WorkerRecord] = {}  #: as it stands in corral_workers, as far as we know
        self.written_revision: dict[WorkerId, int] = {}
        self.sent: set[CommandId] = set()
        self.halted: dict[GroupId, tuple[float, int]] = {}  #: as it was told: when its breaker opened, after how many failures
        self.begun_at = now
        self.look_at = now  #: when to decide next
        self.looked_at = float("-inf")
        self.errors = 0  #: looks in a row that ended in an exception, or whose decision could not be stored
        self.is_stuck = False  #: its newest decision could not be stored, so nothing more is decided
        # its memory in corral_scaler
        self.revision = 0  #: of the stored value; 0: none
        self.unsure: bytes | None = None  #: written, and the answer was lost
        self.stored_generation = 0
        self.stored_at = now
        self.stored_state: EndpointState | None = None
        self.stored_without = ""  #: what had to be left out
        self.settling = False
        self.untold: list[Decided] = []  #: recorded decisions whose event is not stored yet
        self._policy = policy
        self._read: dict[str, StreamRead] = {}

    def resume(self, state: EndpointState, now: float) -> None:
        """Continue from what the leader before us stored."""
        fresh = self.state
        if state.at > now:
            # Its clock was ahead of ours, or was set back since.
            if state.at > now + _CLOCKS_DIFFER_S:
                log.warning("memory_from_the_future", endpoint=self.id, ahead_s=round(state.at - now, 1))
            state = skew.by_our_clock(state, now)
        routers = {name: traffic.forgotten(router) for name, router in state.routers.items()}
        self.state = msgspec.structs.replace(state, routers=routers, telemetry=fresh.telemetry, telemetry_at=now, at=now)
        self.stored_generation = state.generation
        told = state.last.decision.halted if state.last is not None else ()
        breakers = {group_id: memory.breaker for group_id, memory in state.groups.items() if group_id in told}
        self.halted = {group_id: (b.opened_at, b.failures) for group_id, b in breakers.items() if b is not None}

    def clock_stepped(self, by_s: float, now: float) -> None:
        """Our clock was set by so much, and says `now`."""
        self.fold(ClockStepped(at=now, by_s=by_s))
        self.begun_at += by_s
        self.look_at += by_s
        self.looked_at += by_s
        self.stored_at = float("-inf")  # the next leader is to know it too
        self.halted = {group_id: (opened_at + by_s, failures) for group_id, (opened_at, failures) in self.halted.items()}

    def restart_generation(self, now: float) -> None:
        """Its memory is lost. Seconds since 1970 are more than it ever counted, so no command id repeats."""
        self.state = msgspec.structs.replace(self.state, generation=int(now))

    def fold(self, observation: Observation) -> tuple[EndpointState, EndpointState]:
        """Fold it; (before, after)."""
        before = self.state
        self.state = fold.apply(before, observation, self._policy)
        return before, self.state

    def reads(self, stream: str, seq: int) -> None:
        """A message of a stream was folded. 0: nobody knows its place."""
        if seq <= 0:
            return
        known = self._read.get(stream)
        if known is None:
            self._read[stream] = StreamRead(stream=stream, first_seq=seq, last_seq=seq, messages=1)
        else:
            self._read[stream] = StreamRead(
                stream=stream,
                first_seq=min(known.first_seq, seq),
                last_seq=max(known.last_seq, seq),
                messages=known.messages + 1,
            )

    def take_read(self) -> tuple[StreamRead, ...]:
        """What was folded since this was asked last."""
        found, self._read = tuple(self._read[name] for name in sorted(self._read)), {}
        return found

    def moved(self, before: EndpointState) -> Iterator[WorkerId]:
        """Workers whose fact is another one than it was, or that came or went."""
        was, now = before.workers, self.state.workers
        if was is now:
            return
        for worker_id, worker in now.items():
            if was.get(worker_id) is not worker:
                yield worker_id
        for worker_id in was:
            if worker_id not in now:
                yield worker_id

    @property
    def is_over(self) -> bool:
        """Deleted, and nothing of it is left."""
        return self.state.deleted and not self.state.workers and not self.written
