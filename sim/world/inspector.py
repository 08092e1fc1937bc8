"""What must never happen, looked for all along.

    at every creation       no more machines of an endpoint than its max_workers
    at every end            no request in flight is cut by a stop or a destroy, unless its drain was cut short at its deadline and said so
    every half minute       no machine is billed that nobody has a record of
    at every event          each decision can be derived again from what it says, and follows the one before by its hash
    at the end              every command ended as a fact, a refusal or a dead letter; every request was answered or told why not

A broken rule is a sentence in `broken`; a story ends with check(), which raises when there is any.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import msgspec

from schemas import codec, commands, events, subjects
from schemas.ids import CommandId, EndpointId, WorkerId
from schemas.records import EndpointRecord
from schemas.states import WorkerState
from sim.broker import Broker, Stored

from .chain import Chain
from .market import Market, Rented
from .plan import Plan

_LOOK_EVERY_S = 30.0


class Broken(AssertionError):
    """Rules were broken; the message lists them."""


@dataclass(slots=True)
class Told:
    """What the events said about one endpoint."""

    decisions: int = 0
    chain: Chain = field(default_factory=Chain)
    last: events.Decided | None = None
    whys: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)


class Inspector:
    """Hears the streams and the market of one world."""

    def __init__(self, plan: Plan, broker: Broker, market: Market) -> None:
        self.broken: list[str] = []
        self.told: dict[EndpointId, Told] = {}
        self.events: list[events.AnyEvent] = []  #: without decisions, which are large and many
        self.decisions: list[events.Decided] = []  #: those that did something, without their inputs
        self.retold = 0  #: decisions whose leader died before it had told them
        self._plan = plan
        self._broker = broker
        self._market = market
        self._open: dict[CommandId, commands.AnyCommand] = {}
        self._drained: dict[WorkerId, events.WorkerDrained] = {}
        self._unknown_since: dict[WorkerId, float] = {}
        self._orphans: set[WorkerId] = set()
        broker.stream(subjects.STREAM_EVENTS).listeners.append(self._event)
        broker.stream(subjects.STREAM_COMMANDS).listeners.append(self._command)
        market.on_create.append(self._created)
        market.on_end.append(self._ended)

    def find(self, what: str) -> None:
        """A rule was broken."""
        self.broken.append(f"{asyncio.get_running_loop().time():.1f} s: {what}")

    def check(self) -> None:
        """Raises Broken."""
        if self.broken:
            more = f"\n... and {len(self.broken) - 20} more" if len(self.broken) > 20 else ""
            raise Broken("\n".join(self.broken[:20]) + more)

    def of(self, kind: type[events.AnyEvent]) -> list[events.AnyEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            self.look()

    # --- machines --------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Is every machine known to somebody?"""
        now_s = asyncio.get_running_loop().time()
        known = self._broker.table(subjects.BUCKET_INSTANCES).values
        unknown = {}
        for rented in self._market.machines.values():
            value = known.get(subjects.worker_key(rented.order.endpoint_id, rented.id))
            if value is None or codec.instance_record(value.data).state == "gone":
                unknown[rented.id] = self._unknown_since.get(rented.id, now_s)
        for worker_id, since_s in unknown.items():
            if now_s - since_s > self._plan.orphan_grace_s and worker_id not in self._orphans:
                self._orphans.add(worker_id)
                self.find(f"{worker_id} is billed and nobody has known of it for {now_s - since_s:.0f} s")
        self._unknown_since = unknown

    def _created(self, rented: Rented) -> None:
        value = self._broker.table(subjects.BUCKET_ENDPOINTS).values.get(subjects.endpoint_key(rented.order.endpoint_id))
        if value is None:
            return  # deleted a moment ago: it is an orphan, and has to go
        ceiling = codec.decode(value.data, EndpointRecord).settings.max_workers
        here = len(self._market.of(rented.order.endpoint_id))
        if here > ceiling:
            self.find(f"{rented.id} is machine {here} of endpoint {rented.order.endpoint_id}, whose max_workers is {ceiling}")

    def _ended(self, rented: Rented, why: str, cut: int) -> None:
        if not cut or why not in ("stop", "destroy"):
            return
        drained = self._drained.get(rented.id)
        if drained is None or not drained.cut_short:
            self.find(f"{cut} requests at {rented.id} were cut by a {why}: {self._story_of(rented.id)}")

    def _story_of(self, worker_id: WorkerId) -> str:
        told = [event for event in self.events if getattr(event, "worker_id", None) == worker_id]
        return ", ".join(f"{events.kind_of(event)} {getattr(event, 'state', '')}".strip() for event in told[-6:])

    # --- what is told ------------------------------------------------------------------------------------------------------

    def _event(self, stored: Stored) -> None:
        event = codec.event(stored.data)
        if isinstance(event, codec.Unknown):
            self.find(f"an event of a kind nobody knows: {event.kind}")
            return
        told = self.told.setdefault(event.endpoint_id, Told())
        told.kinds[events.kind_of(event)] += 1
        match event:
            case events.Decided():
                self._decided(event, told)
                return
            case events.CommandRefused() | events.CommandDead():
                self._open.pop(CommandId(event.command_id), None)
            case events.WorkerCreated() | events.WorkerStarted() | events.WorkerStopped() | events.WorkerDestroyed():
                self._open.pop(event.command_id, None)
            case events.WorkerDrained():
                self._drained[event.worker_id] = event
            case events.WorkerChanged() if event.state is WorkerState.READY:
                self._drained.pop(event.worker_id, None)
            case _:
                pass
        self.events.append(event)

    def _command(self, stored: Stored) -> None:
        command = codec.command(stored.data)
        if isinstance(command, codec.Unknown):
            self.find(f"a command that nobody knows: {command.kind}")
        else:
            self._open[command.command_id] = command

    def _decided(self, event: events.Decided, told: Told) -> None:
        told.decisions += 1
        told.whys[event.why] += 1
        if problem := told.chain.add(event):
            self.find(f"a decision cannot be believed: {problem}")
        self.retold += told.chain.broken_off
        told.last = msgspec.structs.replace(event, record=msgspec.Raw(b"null"))
        if event.actions:
            self.decisions.append(told.last)

    # --- the end -----------------------------------------------------------------------------------------------------------

    @property
    def unsettled(self) -> list[str]:
        """Commands that were sent and have not come to an end."""
        return [f"{command.command_id} ({commands.op_of(command)} {command.worker_id})" for command in self._open.values()]

    def close(self) -> None:
        """The accounts, when the world has had time to settle."""
        for command in self.unsettled:
            self.find(f"command {command} was sent and never came to an end")
        queued = self._broker.stream(subjects.STREAM_COMMANDS).messages
        if queued:
            self.find(f"{len(queued)} commands are still queued")
