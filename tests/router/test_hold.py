"""The queue: first come, first served; a place is kept while the client is away; one request is one demand."""

import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.api_keys import KeyRing, Principal
from router.hold import HoldQueue
from router.keys_dir import KeysDir
from router.requests import ABSENT_AFTER_S, Phase, Request
from router.routing import Held, Routing
from router.tickets import TicketSigner, VastSigner
from schemas.http import RouteReady, RouteRequest, RouteWaiting
from sim.virtual_time import run_virtual
from tests.router.fleets import EP, Board


class Queue(RuleBasedStateMachine):
    """Against a plain list."""

    def __init__(self):
        super().__init__()
        self.queue = HoldQueue(1000)
        self.numbers = itertools.count(1)
        self.now = 0.0
        self.waiting: list[Request] = []  # in order of arrival
        self.listening: set[int] = set()
        self.seen: dict[int, float] = {}
        self.parted: list[Request] = []

    @rule(cost=st.floats(0, 1e6))
    def arrive(self, cost):
        n = next(self.numbers)
        request = Request(n, n, EP, cost, self.now)
        self.queue.enter(request, self.now)
        self.waiting.append(request)
        self.seen[n] = self.now

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def listen(self, data):
        request = data.draw(st.sampled_from(self.waiting))
        if request.seq not in self.listening:
            request.wake = lambda _: None
            self.queue.listen(request)
            self.listening.add(request.seq)

    @precondition(lambda self: self.listening)
    @rule(data=st.data())
    def go_away(self, data):
        seq = data.draw(st.sampled_from(sorted(self.listening)))
        request = next(r for r in self.waiting if r.seq == seq)
        request.wake = None
        self.queue.unlisten(request, self.now)
        self.listening.discard(seq)
        self.seen[seq] = self.now

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def ask_again(self, data):
        request = data.draw(st.sampled_from(self.waiting))
        if request.seq not in self.listening:
            self.queue.enter(request, self.now)
            self.seen[request.seq] = self.now

    @precondition(lambda self: self.parted)
    @rule(data=st.data())
    def come_back_to_the_old_place(self, data):
        request = data.draw(st.sampled_from(self.parted))
        self.parted.remove(request)
        self.queue.enter(request, self.now)
        self.waiting = sorted([*self.waiting, request], key=lambda r: r.seq)
        self.seen[request.seq] = self.now

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data):
        request = data.draw(st.sampled_from(self.waiting))
        request.wake = None
        self.queue.remove(request)
        self.waiting.remove(request)
        self.listening.discard(request.seq)

    @rule(seconds=st.floats(0.1, ABSENT_AFTER_S))
    def time_passes(self, seconds):
        self.now += seconds
        gone = self.queue.drop_absent(self.now)
        expected = [r for r in self.waiting if r.seq not in self.listening and self.seen[r.seq] + ABSENT_AFTER_S <= self.now]
        assert sorted(r.seq for r in gone) == sorted(r.seq for r in expected)
        assert all(r.phase is Phase.ABSENT for r in gone)
        self.waiting = [r for r in self.waiting if r not in expected]
        self.parted += expected

    @invariant()
    def agrees(self):
        queue = self.queue
        assert len(queue) == len(self.waiting)
        assert queue.units == pytest.approx(sum(r.cost for r in self.waiting), abs=1e-3)
        assert [r.seq for r in queue.listening()] == sorted(self.listening)
        assert [queue.position(r) for r in self.waiting] == list(range(len(self.waiting)))
        assert queue.oldest() is (self.waiting[0] if self.waiting else None)


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=8))
@settings(deadline=None)
def test_a_freed_worker_goes_to_who_came_first_and_to_no_more_than_it_can_take(slots_freed):
    board = Board()
    worker = board.add(1, slots=1, perf=10.0)
    board.beat(1, slots=1, perf=10.0, inflight=1)  # busy for 10 s: nobody is bound ahead
    held = [board.held()[1] for _ in range(12)]
    served = 0
    for slots in slots_freed:
        board.now += 0.2
        board.beat(1, slots=slots, perf=10.0, inflight=0, requests_total=served)
        served = min(12, served + slots)
        assert [len(got) for got in held] == [1] * served + [0] * (12 - served)
        assert worker.promised <= slots


def test_nobody_overtakes_who_listens():
    board = Board()
    board.add(1, perf=1.0)
    board.ask()
    first, got = board.held()
    board.the.fleet.workers["w1"].ledger.clear()
    board.the.fleet.workers["w1"].there = 0.0
    _, placement = board.ask()  # a place is free, but it is not theirs
    assert placement is None
    board.the.pump(board.now)
    assert len(got) == 1
    assert first.worker_id == "w1"


def test_too_many_listeners_are_told_to_ask_again():
    board = Board(max_held=2)
    board.held(), board.held()
    request, placement = board.ask()
    assert placement is None
    assert not board.listen(board.the, request, lambda _: None)
    assert len(board.the.hold) == 3  # it is demand all the same


def test_polling_is_one_demand_and_keeps_its_place():
    board = Board()
    first, _ = board.ask(cost=100)
    for _ in range(5):
        board.later(1.0)
        second, _ = board.ask(cost=7)
        again, _ = board.ask(request_idx=first.idx, cost=100)
        assert again is first
    assert board.the.demand.arrivals == 6
    assert len(board.the.hold) == 6
    assert board.the.hold.position(first) == 0
    assert board.the.hold.position(second) == 5
    assert board.the.hold.units == 135


def test_who_stays_away_is_no_demand_and_finds_the_old_place_when_it_returns():
    board = Board()
    first, _ = board.ask(cost=5)
    board.later(ABSENT_AFTER_S - 1)
    second, _ = board.ask(cost=7)
    board.later(2.0)
    assert (len(board.the.hold), board.the.hold.units) == (1, 7)
    assert board.the.demand.refused == 1
    again, _ = board.ask(request_idx=first.idx, cost=5)
    assert again is first
    assert board.the.hold.position(first) == 0
    assert board.the.demand.arrivals == 2


def test_after_the_replay_timeout_it_is_another_request():
    board = Board()
    first, _ = board.ask(replay_timeout=20.0)
    board.later(21.0)
    again, _ = board.ask(request_idx=first.idx)
    assert again is not first
    assert again.idx == first.idx
    assert board.the.demand.arrivals == 2


def test_a_client_that_hangs_up_is_no_demand_any_more():
    board = Board()
    request, got = board.held()
    board.unlisten(board.the, request, board.now, left=True)
    assert len(board.the.hold) == 0
    board.add(1)
    assert got == []
    assert board.the.fleet.workers["w1"].promised == 0


def routing_on(board: Board, directory) -> Routing:
    keys = KeysDir(directory)
    return Routing(
        board,
        KeyRing(keys),
        TicketSigner(keys, 0.0),
        VastSigner(keys),
        issuer="corral",
        ticket_ttl_s=60,
        now=lambda: 1e9 + board.now,
        monotonic=lambda: board.now,
        synced=lambda: True,
        on_waiting=lambda _: None,
        on_ticket=lambda *_: None,
    )


@pytest.mark.parametrize("leaves", ["time is over", "hangs up"])
def test_a_worker_that_comes_in_the_very_moment_in_which_a_client_leaves_harms_nobody(leaves, tmp_path):
    async def moment():
        loop = asyncio.get_running_loop()
        board = Board()
        routing = routing_on(board, tmp_path / "keys")
        who = Principal("k", "client")
        held = routing.start(RouteRequest(endpoint="ep", wait_s=1.0), who)
        assert isinstance(held, Held)
        call = loop.create_task(routing.finish(held))
        await asyncio.sleep(0)
        loop.call_at(loop.time() + 1.0, call.cancel if leaves == "hangs up" else lambda: None)
        # In the same round of the loop, after the time is over and before the held call could go on.
        loop.call_at(loop.time() + 1.0, lambda: board.add(1, perf=1.0))
        unheard = []
        loop.set_exception_handler(lambda _, context: unheard.append(context))
        (answer,) = await asyncio.gather(call, return_exceptions=True)
        assert unheard == []
        assert board.the.hold.present == 0
        board.later(0.1)
        assert board.ask()[1] is None or isinstance(answer, RouteWaiting), "the one slot is promised to one of the two"
        return answer

    answer = run_virtual(moment())
    assert isinstance(answer, asyncio.CancelledError if leaves == "hangs up" else RouteReady | RouteWaiting)
