"""Who asks: requests that come by a clock, each on the road of the real client library.

The road to the router is corral's own code (budgets, polling, workers to avoid); its HTTP call is a plain call of a router's route
object, and fails over when that router is down. What a worker says is judged by corral's own rules of retrying.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import msgspec

from corral import retry
from corral.budget import Budgets, Meter
from corral.control import Control, Passing, refused, unreachable
from corral.errors import BudgetExceeded, CorralError
from corral.routing import Routing
from router.problems import HttpProblem
from router.routing import Answer, Held, read_request
from router.service import Router
from schemas.http import RouteReady, problem
from schemas.ids import GroupId, WorkerId
from schemas.records import EndpointRecord
from sim.virtual_time import exactly, virtual_loop

from .cast import Participant
from .chronicle import Chronicle
from .market import Market
from .plan import Plan
from .tempo import Tempo
from .worker import Cut, Refusal

ADMIN_KEY = "simulated-admin-key"
_URL = "http://routers.sim"
ANSWERED = "answered"
#: A client whose first byte is later than this gives up; long, because models may be.
_BUDGETS = Budgets(queue_s=900.0, first_byte_s=None, idle_s=None, total_s=None)


class Door(Control):
    """The routers' address: one of those that are up answers."""

    def __init__(self, routers: Sequence[Participant[Router]], first: int) -> None:
        super().__init__(cast(Any, None), _URL, ADMIN_KEY)  # no session: nothing goes over HTTP
        self._routers = routers
        self._turn = first

    async def call(
        self,
        method: str,  # noqa: ARG002 -- /route/ is all that is asked
        path: str,  # noqa: ARG002
        *,
        body: Any = None,
        params: Mapping[str, str] | None = None,  # noqa: ARG002
        timeout_s: float = 30.0,
    ) -> bytes:
        participant = self._routers[self._turn % len(self._routers)]
        router = participant.service
        # A load balancer sends nobody to a router that does not call itself ready.
        if router is None or not router.feeds.synced:
            self._turn += 1
            raise Passing(unreachable(_URL, ConnectionRefusedError(f"{participant.name} is down")), 0.1)
        try:
            started = router.routing.start(read_request(msgspec.json.encode(body)), router.routing.who(ADMIN_KEY))
            answer = await self._held(participant, router, started, timeout_s) if isinstance(started, Held) else started
        except HttpProblem as error:
            raise refused(error.status, msgspec.json.encode(error.problem), _URL) from error
        return msgspec.json.encode(answer)

    async def _held(self, participant: Participant[Router], router: Router, held: Held, timeout_s: float) -> Answer:
        """Until the router answers, or dies under us."""
        task = asyncio.get_running_loop().create_task(router.routing.finish(held), name="held call")
        participant.on_down.append(task.cancel)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                task.cancel()  # the client hung up
                raise
            self._turn += 1
            raise Passing(unreachable(_URL, ConnectionResetError("the router is gone"))) from None
        except TimeoutError as error:
            task.cancel()
            raise Passing(unreachable(_URL, error)) from error
        finally:
            participant.on_down.remove(task.cancel)


class Crowd:
    """The requests of one endpoint, and how they went."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked = 0
        self.open = 0
        self.ended: Counter[str] = Counter()  #: "answered", or why not
        self.by_group: Counter[GroupId] = Counter()  #: tickets
        self.by_worker: Counter[WorkerId] = Counter()  #: answers
        self.waits_s: list[float] = []  #: from asked to the start at the worker
        self.refusals: Counter[str] = Counter()  #: of workers, by code; taken elsewhere
        self.cut: Counter[str] = Counter()  #: connections that broke, by what ended the worker
        self.came_all = False

    @property
    def answered(self) -> int:
        return self.ended[ANSWERED]

    def share_within(self, wait_s: float) -> float:
        """Of the answered."""
        return sum(1 for waited_s in self.waits_s if waited_s <= wait_s) / max(len(self.waits_s), 1)

    def wait_quantile_s(self, q: float) -> float:
        ranked = sorted(self.waits_s)
        return ranked[min(len(ranked) - 1, int(q * len(ranked)))] if ranked else 0.0


Arrival = tuple[float, float]  #: (loop s, units)


class Clients:
    def __init__(
        self,
        plan: Plan,
        routers: Sequence[Participant[Router]],
        market: Market,
        tempo: Tempo,
        chronicle: Chronicle,
        spawn: Callable[[Any, str], object],
    ) -> None:
        self.crowds: list[Crowd] = []
        self._plan = plan
        self._routers = routers
        self._market = market
        self._tempo = tempo
        self._chronicle = chronicle
        self._spawn = spawn
        self._rng = random.Random(f"clients {plan.seed}")
        self._policy = retry.Policy()

    @property
    def open(self) -> int:
        return sum(crowd.open for crowd in self.crowds)

    # --- who comes when ------------------------------------------------------------------------------------------------

    def come(self, endpoint: EndpointRecord, arrivals: Iterable[Arrival], budgets: Budgets = _BUDGETS) -> Crowd:
        """Requests at these moments, in order."""
        crowd = Crowd(endpoint.name)
        self.crowds.append(crowd)
        self._spawn(self._stream(crowd, iter(arrivals), budgets), f"clients of {endpoint.name}")
        return crowd

    def steady(
        self,
        endpoint: EndpointRecord,
        *,
        rate: float,
        units: float,
        for_s: float,
        sigma: float = 0.0,
        budgets: Budgets = _BUDGETS,
    ) -> Crowd:
        """A Poisson stream from now on; sizes log-normal around a mean of `units`."""
        return self.come(endpoint, self.poisson(lambda _: rate, rate, units, for_s, sigma), budgets)

    def poisson(
        self, rate: Callable[[float], float], most: float, units: float, for_s: float, sigma: float = 0.0
    ) -> Iterator[Arrival]:
        """Arrivals at rate(seconds since the begin), which never exceeds `most`: by thinning."""
        rng = random.Random(self._rng.random())
        begin_s = at_s = virtual_loop().time()
        while (at_s := at_s + rng.expovariate(most)) < begin_s + for_s:
            if rng.random() * most < rate(at_s - begin_s):
                yield at_s, units * rng.lognormvariate(-sigma * sigma / 2, sigma) if sigma else units

    async def _stream(self, crowd: Crowd, arrivals: Iterator[Arrival], budgets: Budgets) -> None:
        loop = virtual_loop()
        for at_s, units in arrivals:
            ahead_s = at_s - loop.time()
            quiet_s = self._tempo.quiet_grain_s
            if ahead_s > 2 * quiet_s > 0:
                await asyncio.sleep(ahead_s - 2 * quiet_s)
            # Whoever sleeps with a coarse clock wakes once more before this request comes.
            self._tempo.hold("clients")
            await exactly(at_s - loop.time())
            crowd.asked += 1
            crowd.open += 1
            self._spawn(self._request(crowd, units, crowd.asked, budgets), f"request {crowd.asked} of {crowd.name}")
        crowd.came_all = True

    async def _request(self, crowd: Crowd, units: float, number: int, budgets: Budgets) -> None:
        begin_s = virtual_loop().time()
        try:
            ended = await self._journey(crowd, units, number, budgets, begin_s)
        except BudgetExceeded as error:
            ended = f"{error.budget} budget"
        except CorralError as error:
            ended = type(error).__name__
        finally:
            crowd.open -= 1
            self._tempo.release("clients")
        crowd.ended[ended] += 1
        self._chronicle.note(f"{crowd.name} {number} {ended}")

    # --- one request ---------------------------------------------------------------------------------------------------

    async def _journey(self, crowd: Crowd, units: float, number: int, budgets: Budgets, begin_s: float) -> str:
        """As corral.journey: route, knock, and on to another worker. Raises CorralError."""
        loop = virtual_loop()
        meter, avoided = Meter(budgets, begin_s), retry.Avoided()
        routing = Routing(
            Door(self._routers, number),
            endpoint=crowd.name,
            cost=units,
            meter=meter,
            avoided=avoided,
            now=loop.time,
            rng=self._rng,
        )
        attempts = 0
        while True:
            ready = await routing.next_worker()
            attempts += 1
            crowd.by_group[GroupId(ready.group_id)] += 1
            setback = await self._knock(crowd, ready, meter, begin_s)
            if setback is None:
                return ANSWERED
            if setback.avoid_s > 0:
                avoided.add(ready.worker_id, setback.avoid_s, loop.time())
            if not retry.may_go_on(setback, self._policy, attempts):
                return f"gave up: {setback.code}"
            pause_s = min(retry.pause_s(self._policy, attempts, self._rng), meter.allow("queue", loop.time()).seconds)
            if pause_s > 0:
                await asyncio.sleep(pause_s)
                meter.spend("queue", pause_s)

    async def _knock(self, crowd: Crowd, ready: RouteReady, meter: Meter, begin_s: float) -> retry.Setback | None:
        """Raises BudgetExceeded when the answer does not begin in time."""
        loop = virtual_loop()
        await exactly(self._plan.travel_s)
        worker = self._market.worker_at(ready.url)
        if worker is None:
            crowd.refusals[retry.CONNECT_FAILED] += 1
            return retry.Setback(code=retry.CONNECT_FAILED, message=f"nobody listens at {ready.url}", avoid_s=10.0)
        allowance = meter.allow("first_byte", loop.time())
        try:
            async with asyncio.timeout(allowance.timeout_s):
                served = await worker.serve(ready.ticket)
        except TimeoutError as error:
            raise meter.exceeded(allowance.budget, f"worker {ready.worker_id} had not answered yet") from error
        except Cut as cut:
            crowd.cut[str(cut)] += 1
            return retry.Setback(code=retry.CONNECTION_LOST, message=str(cut), began=True, avoid_s=10.0)
        if isinstance(served, Refusal):
            crowd.refusals[served.code] += 1
            body = msgspec.json.encode(problem(served.code, served.message))
            setback = retry.refusal(served.status, body, served.retry_after_s)
            return setback or retry.Setback(code=served.code, message=served.message, status=served.status)
        crowd.by_worker[ready.worker_id] += 1
        crowd.waits_s.append(loop.time() - served.took_s + served.queued_s - begin_s)
        return None
