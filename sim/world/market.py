"""Where machines come from in a simulated world: a provider of the provisioner, with all that real ones do to their customers.

What the provider was asked to do it does, whoever dies meanwhile: a call that is cut short by its caller still takes effect. Boots
take time, fail and hang; machines vanish and are taken back; hosts are bad; stock runs out; the API is busy or down.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from provisioner.provider import Machine, MachineState, Offer, Order, Permanent, Provider, Transient, host_lost
from schemas.ids import EndpointId, GroupId, WorkerId
from schemas.reasons import Cause, Phase
from schemas.records import Failure
from schemas.signals import WorkerBundle
from sim import chance
from sim.broker import Broker
from sim.virtual_time import virtual_loop

from .chronicle import Chronicle
from .plan import MARKET, Kind, Plan
from .tempo import Tempo
from .worker import Boot, Worker, url_of

T = TypeVar("T")

_API, _BUSY, _BOOT, _FAILS, _HANGS = range(31, 36)  # what is drawn


class Rented:
    """One machine that carries our label."""

    def __init__(self, order: Order, kind: Kind, host: str, now: float) -> None:
        self.order = order
        self.kind = kind
        self.host = host
        self.state = MachineState.RUNNING
        self.created_at = now
        self.started_at = now
        self.starts = 0
        self.gone_at: float | None = None
        self.failure: Failure | None = None
        self.worker: Worker | None = None
        self.running_s = 0.0  #: billed as running, up to its last stop
        self.stopped_s = 0.0
        self.since_at = now

    @property
    def id(self) -> WorkerId:
        return self.order.worker_id

    def shown(self) -> Machine:
        return Machine(
            worker_id=self.id,
            endpoint_id=self.order.endpoint_id,
            group_id=self.order.group_id,
            command_id=self.order.command_id,
            state=self.state,
            provider_ref=f"contract-{self.id}",
            template=self.order.template,
            revision=self.order.revision,
            url=url_of(self.id),
            host=self.host,
            usd_per_hour=self.kind.usd_per_hour,
            storage_usd_per_hour=self.kind.storage_usd_per_hour,
            created_at=self.created_at,
            started_at=self.started_at,
            starts=self.starts,
            gone_at=self.gone_at,
            failure=self.failure,
        )


class Market:
    """See provisioner.provider.Provider. The story pulls the strings: `broken`, `bad_hosts`, `sold_out`, `down`, preempt(), vanish()."""

    name = MARKET

    def __init__(
        self, plan: Plan, broker: Broker, chronicle: Chronicle, tempo: Tempo, keys: Callable[[], Mapping[str, bytes]]
    ) -> None:
        self.preemption_notice_s: float | None = 120.0
        self.machines: dict[WorkerId, Rented] = {}
        self.broken: dict[tuple[GroupId, int], Cause] = {}  #: (group, revision) whose model never loads
        self.bad_hosts: set[str] = set()
        self.sold_out: set[str] = set()  #: names of kinds
        self.down = False  #: the API answers nothing
        self.silent = False  #: no heartbeat of any worker comes through
        self.calls: Counter[str] = Counter()
        self.creates = 0  #: machines ever made
        self.most: Counter[EndpointId] = Counter()  #: that existed at once
        self.usd: defaultdict[GroupId, float] = defaultdict(float)  #: of machines that are gone
        self.cuts: list[tuple[WorkerId, str, int]] = []  #: (worker, why, requests cut)
        self.on_create: list[Callable[[Rented], None]] = []
        self.on_end: list[Callable[[Rented, str, int], None]] = []
        self.during_create: Callable[[int, str], None] | None = None  #: (how many-th, "before" or "after")
        self._plan = plan
        self._broker = broker
        self._chronicle = chronicle
        self._tempo = tempo
        self._keys = keys
        self._kinds = {kind.name: kind for kind in plan.kinds}
        self._watchers: list[Callable[[WorkerId], None]] = []
        self._doing: set[asyncio.Task[object]] = set()

    # --- the API ---------------------------------------------------------------------------------------------------------

    async def offers(self, order: Order) -> Sequence[Offer]:
        await self._api("offers")
        kind = self._kinds.get(order.search_params)
        left = 0 if kind is None or kind.name in self.sold_out else kind.stock - self._taken(kind)
        return [Offer(provider=self.name, count=left, usd_per_hour=kind.usd_per_hour)] if kind is not None and left > 0 else []

    async def create(self, order: Order) -> Machine:
        number = self.calls["create"] + 1
        if self.during_create is not None:
            self.during_create(number, "before")
        return await self._do("create", lambda: self._create(order, number))

    async def start(self, worker_id: WorkerId) -> Machine:
        return await self._do("start", lambda: self._start(worker_id))

    async def stop(self, worker_id: WorkerId) -> Machine:
        return await self._do("stop", lambda: self._stop(worker_id))

    async def destroy(self, worker_id: WorkerId) -> str:
        return await self._do("destroy", lambda: self._destroy(worker_id))

    async def inventory(self) -> Sequence[Machine]:
        await self._api("inventory")
        return [rented.shown() for rented in self.machines.values()]

    async def describe(self, worker_id: WorkerId) -> Machine | None:
        await self._api("describe")
        rented = self.machines.get(worker_id)
        return None if rented is None else rented.shown()

    async def log_tail(self, worker_id: WorkerId, limit_bytes: int = 4096) -> str:  # noqa: ARG002 -- it keeps no logs
        return ""

    async def watch(self, changed: Callable[[WorkerId], None]) -> None:
        self._watchers.append(changed)
        try:
            await asyncio.Event().wait()
        finally:
            self._watchers.remove(changed)

    async def _do(self, op: str, effect: Callable[[], Awaitable[T]]) -> T:
        """The call goes on at the provider when its caller dies."""

        async def carry_out() -> T:
            await self._api(op)
            done = await effect()
            await self._wait(op)
            return done

        task = asyncio.get_running_loop().create_task(carry_out(), name=f"market {op}")
        self._doing.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[T]) -> None:
        self._doing.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may be gone

    async def _api(self, op: str) -> None:
        self.calls[op] += 1
        if self.down:
            await asyncio.sleep(5.0)
            raise Transient(Cause.HANG, "the market does not answer")
        await self._wait(op)
        if self._plan.busy and self._unit(_BUSY, sum(self.calls.values())) < self._plan.busy:
            raise Transient(Cause.RENT_FAILED, "the market is busy")

    async def _wait(self, op: str) -> None:
        low, high = self._plan.api_s
        if high > 0 and op not in ("inventory", "describe"):
            await asyncio.sleep((low + (high - low) * self._unit(_API, sum(self.calls.values()))) / 2)

    # --- what it does ----------------------------------------------------------------------------------------------------

    async def _create(self, order: Order, number: int) -> Machine:
        rented = self.machines.get(order.worker_id)
        if rented is None:
            kind = self._kinds.get(order.search_params)
            host = None if kind is None or kind.name in self.sold_out else self._room(kind, order.avoid_hosts)
            if kind is None or host is None:
                raise Permanent(Cause.NO_OFFER, f"nothing on offer for {order.search_params!r}")
            rented = self.machines[order.worker_id] = Rented(order, kind, host, self._broker.now())
            self.creates += 1
            existing = sum(1 for other in self.machines.values() if other.order.endpoint_id == order.endpoint_id)
            self.most[order.endpoint_id] = max(self.most[order.endpoint_id], existing)
            self._note(rented, "created")
            self._launch(rented)
            for hear in self.on_create:
                hear(rented)
        if self.during_create is not None:
            self.during_create(number, "after")
        return rented.shown()

    async def _start(self, worker_id: WorkerId) -> Machine:
        rented = self._rented(worker_id)
        if rented.state is not MachineState.RUNNING:
            self._bill(rented)
            rented.state, rented.failure = MachineState.RUNNING, None
            self._note(rented, "started")
            self._launch(rented)
        return rented.shown()

    async def _stop(self, worker_id: WorkerId) -> Machine:
        rented = self._rented(worker_id)
        if rented.state is MachineState.RUNNING:
            await self._end(rented, "stop", last_word=True)
            self._bill(rented)
            rented.state = MachineState.STOPPED
            self._note(rented, "stopped")
        return rented.shown()

    async def _destroy(self, worker_id: WorkerId) -> str:
        rented = self.machines.get(worker_id)
        if rented is not None:
            await self._remove(rented, "destroy")
        return ""

    def _rented(self, worker_id: WorkerId) -> Rented:
        rented = self.machines.get(worker_id)
        if rented is None:
            raise host_lost(self.name, worker_id)
        return rented

    def _launch(self, rented: Rented) -> None:
        rented.starts += 1
        rented.started_at = self._broker.now()
        worker = rented.worker = Worker(
            self._broker,
            WorkerBundle(
                worker_id=rented.id,
                endpoint_id=rented.order.endpoint_id,
                group_id=rented.order.group_id,
                nats_urls=(),
                nats_jwt="",
                nats_seed="",
                control_url="",
                revision=rented.order.revision,
            ),
            rented.kind,
            self._boot(rented),
            start_no=rented.starts,
            keys=self._keys,
            at=self.worker_at,
            on_failed=lambda failure: self._note(rented, f"failed {failure.cause}"),
            is_silent=lambda: self.silent,
        )
        self._tempo.hold(rented.id)
        worker.launch()

    def _boot(self, rented: Rented) -> Boot:
        kind, start_no = rented.kind, rented.starts
        median_s = kind.create_s if start_no == 1 else kind.start_s
        ready_s = chance.lognormal(self._draw(rented, _BOOT), median_s, kind.sigma, 0.5 * median_s, 3.0 * median_s)
        cause = self.broken.get((rented.order.group_id, rented.order.revision))
        if rented.host in self.bad_hosts:
            cause = Cause.MODEL_OOM
        elif cause is None and self._draw(rented, _FAILS) < kind.fails:
            cause = Cause.START_CRASH
        failure = None
        if cause is not None:
            failure = Failure(cause=cause, message=f"the model does not load on {rented.host}", phase=Phase.MODEL)
        return Boot(ready_s, failure, hangs=self._draw(rented, _HANGS) < kind.hangs)

    async def _end(self, rented: Rented, why: str, *, last_word: bool = False) -> None:
        """Its process ends."""
        worker = rented.worker
        if worker is None:
            return
        rented.worker = None
        cut = await worker.kill(why, last_word=last_word)
        self._tempo.release(rented.id)
        if cut:
            self.cuts.append((rented.id, why, cut))
        for hear in self.on_end:
            hear(rented, why, cut)

    async def _remove(self, rented: Rented, why: str) -> None:
        await self._end(rented, why)
        self._bill(rented)
        if self.machines.pop(rented.id, None) is not None:
            self.usd[rented.order.group_id] += self._cost(rented)
            self._note(rented, f"gone: {why}")

    # --- what happens to it ----------------------------------------------------------------------------------------------

    def preempt(self, worker_id: WorkerId, notice_s: float) -> None:
        """The provider wants the machine back: it says so, and takes it when the time is over."""
        rented = self.machines[worker_id]
        rented.gone_at = self._broker.now() + notice_s
        self._note(rented, "preempting")
        loop = virtual_loop()
        loop.call_exactly_at(loop.time() + notice_s, self._in_background, lambda: self._take_back(rented))
        self._tell(worker_id)

    async def _take_back(self, rented: Rented) -> None:
        if self.machines.get(rented.id) is rented:
            await self._remove(rented, "preempted")
            self._tell(rented.id)

    async def vanish(self, worker_id: WorkerId) -> None:
        """The host dies: the machine is nowhere any more."""
        await self._remove(self.machines[worker_id], "vanished")
        self._tell(worker_id)

    async def exit(self, worker_id: WorkerId, cause: Cause = Cause.START_CRASH) -> None:
        """The process ends by itself; the machine stays."""
        rented = self.machines[worker_id]
        await self._end(rented, "exited")
        self._bill(rented)
        rented.state = MachineState.EXITED
        rented.failure = Failure(cause=cause, message="the process ended", phase=Phase.SERVE, at=self._broker.now())
        self._note(rented, "exited")
        self._tell(worker_id)

    def _tell(self, worker_id: WorkerId) -> None:
        for changed in list(self._watchers):
            changed(worker_id)

    def _in_background(self, do: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            await do()

        task: asyncio.Task[object] = asyncio.get_running_loop().create_task(run(), name="market")
        self._doing.add(task)
        task.add_done_callback(self._doing.discard)

    # --- books -----------------------------------------------------------------------------------------------------------

    def of(self, endpoint_id: EndpointId, *states: MachineState) -> list[Rented]:
        """Machines of an endpoint in these states (default: all)."""
        return [
            rented
            for rented in self.machines.values()
            if rented.order.endpoint_id == endpoint_id and (not states or rented.state in states)
        ]

    def worker_at(self, url: str) -> Worker | None:
        """Who answers there."""
        rented = self.machines.get(WorkerId(url.removeprefix("http://").removesuffix(".sim")))
        worker = None if rented is None else rented.worker
        return worker if worker is not None and worker.let_through else None

    def cost_usd(self, group_id: GroupId) -> float:
        """Of all machines of a group, up to now."""
        total = self.usd[group_id]
        for rented in self.machines.values():
            if rented.order.group_id == group_id:
                self._bill(rented)
                total += self._cost(rented)
        return total

    def _bill(self, rented: Rented) -> None:
        """Count the time in its present state up to now."""
        now = self._broker.now()
        if rented.state is MachineState.RUNNING:
            rented.running_s += now - rented.since_at
        else:
            rented.stopped_s += now - rented.since_at
        rented.since_at = now

    @staticmethod
    def _cost(rented: Rented) -> float:
        kind = rented.kind
        return (rented.running_s * kind.usd_per_hour + rented.stopped_s * kind.storage_usd_per_hour) / 3600

    def _taken(self, kind: Kind) -> int:
        return sum(1 for rented in self.machines.values() if rented.kind is kind)

    def _room(self, kind: Kind, avoid: Sequence[str]) -> str | None:
        """The first host with room that is not to be avoided."""
        taken = Counter(rented.host for rented in self.machines.values() if rented.kind is kind)
        left = kind.stock
        for number in range(kind.stock // kind.per_host + 1):
            host = host_of(kind, number)
            here = min(kind.per_host, left)
            left -= here
            if taken[host] < here and host not in avoid:
                return host
        return None

    def _note(self, rented: Rented, what: str) -> None:
        self._chronicle.note(f"market {rented.id} {rented.host} {what}")

    def _unit(self, kind: int, number: int) -> float:
        return chance.unit(self._plan.seed, number, 0, kind)

    def _draw(self, rented: Rented, kind: int) -> float:
        return chance.unit(self._plan.seed, int(rented.id[1:]), rented.starts, kind)


def host_of(kind: Kind, number: int) -> str:
    return f"{kind.name or 'host'}-{number}"


if TYPE_CHECKING:

    def _is_a_provider(market: Market) -> Provider:
        return market
