"""Placing: limits, tiers, weights, exclusions, complaints."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import waiting
from router.choose import expected_wait_s
from router.complaints import BENCH_AFTER, BENCH_S, hold_s
from router.desk import BIND_AHEAD_S, LAST_RESORT_S
from schemas import events
from schemas.reasons import Cause
from schemas.records import Failure
from schemas.states import EndpointState, WorkerState
from tests.router.fleets import EP, Board, endpoint, record


@given(
    st.floats(0, 60),
    st.lists(st.tuples(st.floats(0.5, 200), st.integers(1, 4)), min_size=1, max_size=5),
    st.lists(st.floats(0, 500), min_size=1, max_size=60),
)
@settings(deadline=None)
def test_no_worker_is_given_a_request_beyond_max_queue_time(max_queue_time, kinds, costs):
    board = Board(max_queue_time=max_queue_time)
    for n, (perf, slots) in enumerate(kinds, 1):
        board.add(n, perf=perf, slots=slots)
    for cost in costs:
        _, placement = board.ask(cost=cost)
        if placement is None:
            best = min(expected_wait_s(w, board.the.demand.usual_cost(), board.now) for w in board.the.fleet.workers.values())
            assert best >= min(max_queue_time, BIND_AHEAD_S)
            assert best > 0
        else:
            assert placement.expected_wait_s <= min(max_queue_time, BIND_AHEAD_S)


def test_with_no_queue_time_at_all_free_slots_are_used_and_nothing_more():
    board = Board(max_queue_time=0.0)
    board.add(1, slots=3)
    assert [board.ask()[1] is not None for _ in range(5)] == [True, True, True, False, False]


@given(st.sets(st.integers(1, 6), max_size=6), st.integers(1, 6))
def test_an_excluded_worker_is_never_chosen_while_there_are_others(excluded, workers):
    board = Board()
    for n in range(1, workers + 1):
        board.add(n)
    names = tuple(f"w{n}" for n in sorted(excluded))
    for _ in range(workers + 2):
        _, placement = board.ask(exclude_workers=names)
        if placement is not None:
            assert placement.worker.id not in names


def test_when_only_excluded_workers_are_left_one_is_tried_again_after_a_while():
    board = Board()
    board.add(1)
    request, got = board.held(exclude_workers=("w1",))
    assert waiting.why(board.the, request, 0.0).reason == "excluded"
    board.later(LAST_RESORT_S / 2)
    assert got == []
    board.later(LAST_RESORT_S / 2)
    assert [placement.worker.id for placement in got] == ["w1"]


def test_workers_of_groups_with_weight_0_are_no_others_to_wait_for():
    board = Board({}, {"weight": 0.0})
    board.add(1), board.add(2, group=2), board.add(3, group=2)
    assert board.the.routable == 1
    request, got = board.held(exclude_workers=("w1",))
    assert waiting.why(board.the, request, 0.0).reason == "excluded"
    board.later(LAST_RESORT_S)
    assert [placement.worker.id for placement in got] == ["w1"]


def test_who_comes_while_only_weight_0_is_ready_waits_for_a_start():
    board = Board({}, {"weight": 0.0})
    board.add(1, group=2)
    request, _ = board.held()
    assert request.cold_start


def test_a_request_kept_back_by_its_own_exclusions_does_not_block_the_next():
    board = Board()
    board.add(1, perf=1.0), board.add(2, perf=1.0)
    board.ask(), board.ask()
    _, picky = board.held(exclude_workers=("w1",))
    _, easy = board.held()
    board.beat(1, perf=1.0)
    board.beat(1, perf=1.0, requests_total=1)  # it had its request and is free again
    assert [placement.worker.id for placement in easy] == ["w1"]
    assert picky == []


def test_a_tier_overflows_only_when_it_is_full():
    board = Board({"tier": 0}, {"tier": 1})
    board.add(1, group=1, slots=2, perf=1.0)
    board.add(2, group=2, slots=2, perf=1000.0)
    assert [board.ask()[1].worker.id for _ in range(4)] == ["w1", "w1", "w2", "w2"]


@given(st.lists(st.integers(0, 10), min_size=2, max_size=5).filter(any), st.integers(1, 120))
@settings(deadline=None)
def test_groups_of_a_tier_get_their_weights_exactly(weights, requests):
    board = Board(*({"weight": float(weight)} for weight in weights))
    for n in range(1, len(weights) + 1):
        board.add(n, group=n, slots=10_000)
    got = [0] * len(weights)
    for _ in range(requests):
        got[board.ask()[1].worker.group_id - 1] += 1
    for count, weight in zip(got, weights, strict=True):
        assert abs(count - requests * weight / sum(weights)) < 1


def test_a_full_group_leaves_its_share_to_the_others():
    board = Board({"weight": 1}, {"weight": 1})
    board.add(1, group=1, slots=1, perf=0.1)
    board.add(2, group=2, slots=100)
    assert [board.ask()[1].worker.id for _ in range(6)].count("w2") == 5


def test_a_tier_without_weights_is_one_pool():
    board = Board({"by_cost": True}, {"by_cost": True})
    board.add(1, group=1, slots=1)
    for n in range(2, 6):
        board.add(n, group=2, slots=1)
    got = [board.ask()[1].worker.group_id for _ in range(5)]
    assert (got.count(1), got.count(2)) == (1, 4), "each slot once, whichever group it is of"
    request, placement = board.ask(exclude_workers=("w1",))
    assert placement is None or placement.worker.id != "w1"


def test_one_weight_in_a_tier_makes_all_of_it_go_by_weights():
    board = Board({"weight": 3.0}, {"by_cost": True})
    board.add(1, group=1, slots=100)
    board.add(2, group=2, slots=100)
    got = [board.ask()[1].worker.group_id for _ in range(40)]
    assert (got.count(1), got.count(2)) == (30, 10)


def test_a_stopped_endpoint_gives_out_nothing_and_starts_again_with_who_waits():
    board = Board()
    board.add(1)
    board.endpoint(endpoint({}, state=EndpointState.STOPPED), board.now)
    request, got = board.held()
    assert waiting.why(board.the, request, 0.0).reason == "stopped"
    board.endpoint(endpoint({}), board.now)
    assert [placement.worker.id for placement in got] == ["w1"]


def test_a_group_that_is_deleted_gets_no_more_requests():
    board = Board({}, {})
    board.add(1, group=1, slots=9), board.add(2, group=2, slots=9)
    board.endpoint(endpoint({}), board.now)
    assert {board.ask()[1].worker.id for _ in range(9)} == {"w1"}


# --- complaints ---------------------------------------------------------------------------------------------------


def test_coming_back_is_a_complaint_and_leads_elsewhere_at_once():
    board = Board()
    board.add(1), board.add(2)
    request, placement = board.ask()
    _, again = board.ask(request_idx=request.idx)
    assert again.worker.id != placement.worker.id
    assert again.again
    assert board.the.fleet.complaints.totals == {placement.worker.id: 1}
    assert board.the.demand.arrivals == 1
    assert board.the.demand.routed == 1
    assert board.the.demand.rerouted == 1


def test_a_client_in_a_hot_loop_is_slowed_down():
    board = Board()
    board.add(1, slots=10_000)
    request, _ = board.ask()
    tickets = 0
    for _ in range(1000):  # one second in steps of a millisecond
        board.now += 0.001
        tickets += board.ask(request_idx=request.idx)[1] is not None
    assert tickets <= 1
    assert [hold_s(n) for n in (1, 2, 3, 4, 99)] == [0.0, 0.1, 0.2, 0.4, 1.0]


def test_a_lone_worker_that_refuses_the_same_request_is_tried_less_and_less_often():
    """Its drain was taken back and it has not heard so: a client has few attempts, and they must not be over in seconds."""
    board = Board()
    board.add(1, slots=99)
    board.beat(1, slots=99)
    request, placement = board.ask()
    asked_at = [board.now]
    while len(asked_at) < 6:
        board.later(0.25)
        board.beat(1, slots=99)
        _, placement = board.ask(request_idx=request.idx)
        if placement is not None:
            asked_at.append(board.now)
    gaps = [b - a for a, b in pairwise(asked_at)]
    assert gaps == pytest.approx([1.25, 2.25, 4.25, 8.25, 16.25], abs=0.5)


def test_a_worker_that_several_requests_complain_about_is_set_aside_for_a_while():
    board = Board()
    board.add(1, slots=99, perf=1000.0), board.add(2, slots=99, perf=1.0)
    requests = [board.ask()[0] for _ in range(BENCH_AFTER)]
    assert {request.worker_id for request in requests} == {"w1"}
    for request in requests:
        board.ask(request_idx=request.idx)
    assert board.the.routable == 1
    assert board.ask()[1].worker.id == "w2"
    board.later(BENCH_S)
    assert board.ask()[1].worker.id == "w1"


def test_workers_of_weight_0_are_no_reason_to_set_all_others_aside():
    board = Board({}, {"weight": 0.0})
    for n in range(1, 11):
        board.add(n, group=1 if n <= 2 else 2, slots=99)
    for _ in range(2 * BENCH_AFTER):
        request, _ = board.ask()
        board.ask(request_idx=request.idx)
    assert board.the.routable == 1


def test_one_request_that_fails_everywhere_benches_nobody():
    board = Board()
    for n in range(1, 6):
        board.add(n, slots=99)
        board.beat(n, slots=99)
    request, _ = board.ask()
    for _ in range(20):
        board.later(1.5)
        board.ask(request_idx=request.idx)
    assert board.the.routable == 5


def test_a_worker_that_only_an_old_record_vouches_for_is_set_aside_at_the_first_word():
    board = Board()
    board.add(1, slots=9)
    request, placement = board.ask()
    assert placement is not None
    _, again = board.ask(request_idx=request.idx)
    assert again is None, "nobody was ever heard there, and nobody answered"
    board.beat(1, slots=9, boot="new")
    assert board.the.routable == 1, "it lives after all"
    assert board.ask()[1].worker.id == "w1"


def test_bad_requests_cannot_empty_an_endpoint():
    board = Board()
    for n in range(1, 7):
        board.add(n, slots=99)
    for _ in range(40):
        request, placement = board.ask()
        for _ in range(6):
            board.now += 0.2
            if placement is not None:
                _, placement = board.ask(request_idx=request.idx)
    assert board.the.routable >= 3


# --- names --------------------------------------------------------------------------------------------------------


def test_a_name_leads_to_the_older_of_two_and_is_not_lost_with_the_younger():
    board = Board()
    board.endpoint(endpoint(endpoint_id=2), board.now)
    assert board.desk("ep") is board.the
    board.endpoint_gone(2)
    assert board.desk("ep") is board.the
    board.endpoint(endpoint(endpoint_id=2, name="b"), board.now)
    board.endpoint(endpoint(name="c"), board.now)
    board.endpoint(endpoint(endpoint_id=2, name="ep"), board.now)
    assert (board.desk("c"), board.desk("ep"), board.desk("b")) == (board.the, board.desks[2], None)


def test_who_waits_for_an_endpoint_that_is_deleted_is_answered():
    board = Board()
    _, got = board.held()
    board.endpoint_gone(board.the.id)
    assert got == [None]
    assert board.desk("ep") is None


# --- why ----------------------------------------------------------------------------------------------------------


def _failing(board, cause):
    board.worker(record(9, state=WorkerState.ERROR, failure=Failure(cause=cause)), board.now)


def test_a_halted_group_is_why():
    board = Board({}, {})
    request, _ = board.ask()
    board.halted(halted(1))
    assert waiting.why(board.the, request, 0.0, board.halts).reason == "no_worker"  # the other group may still start
    board.halted(halted(2))
    assert waiting.why(board.the, request, 0.0, board.halts).reason == "halted"
    board.halted(events.GroupResumed(id="r", at=3.0, endpoint_id=EP, group_id=1))
    assert waiting.why(board.the, request, 0.0, board.halts).reason == "no_worker"


def halted(group, at=1.0, **more):
    more = {"revision": 1, "failures": 3, "cost_usd": 0.5, "failure": Failure(cause=Cause.MODEL_OOM, message="no room")} | more
    return events.GroupHalted(id=f"h{at}", at=at, endpoint_id=EP, group_id=group, **more)


def test_a_halt_that_goes_on_to_cost_is_the_same_halt_and_another_revisions_is_not():
    board = Board({}, {})
    board.halted(halted(1, at=1.0))
    board.halted(halted(1, at=5.0, failures=4, cost_usd=0.8))
    halt = board.halts[1]
    assert (halt.since_at, halt.failures, halt.cost_usd, halt.cause) == (1.0, 4, 0.8, Cause.MODEL_OOM)
    board.halted(halted(1, at=9.0, revision=2))
    assert (board.halts[1].since_at, board.halts[1].cost_usd) == (9.0, 0.5)


@pytest.mark.parametrize(
    "reason, prepare",
    [
        ("no_worker", lambda board: None),
        ("no_group", lambda board: board.endpoint(msgspec.structs.replace(endpoint(), groups=()), board.now)),
        ("starting", lambda board: board.add(1, state=WorkerState.MODEL_LOADING)),
        ("at_capacity", lambda board: (board.add(1, perf=0.01), board.ask())),
        ("failing", lambda board: _failing(board, Cause.MODEL_OOM)),
        ("halted", lambda board: _failing(board, Cause.HALTED)),
        ("stopped", lambda board: board.endpoint(endpoint(state=EndpointState.STOPPED), board.now)),
        ("suspended", lambda board: board.endpoint(endpoint(state=EndpointState.SUSPENDED), board.now)),
        ("max_workers", lambda board: board.endpoint(endpoint(max_workers=0), board.now)),
    ],
)
def test_who_waits_is_told_why(reason, prepare):
    board = Board()
    prepare(board)
    request, placement = board.ask()
    assert placement is None
    why = waiting.why(board.the, request, 0.0)
    assert why.reason == reason
    assert why.sentence.endswith(".")
    assert why.retry_after_s > 0


OUT_OF_PLAY = [
    ({"weight": 0.0}, "weight_0", "g1 has weight 0", "a weight above 0"),
    ({"provider": "external"}, "external", "g1 takes only machines that people bring", "corral worker enroll"),
    ({"max_workers": 0}, "full", "g1 has max_workers 0", "Raise max_workers of a group"),
]


@pytest.mark.parametrize("group, reason, because, todo", OUT_OF_PLAY)
def test_nobody_is_told_that_a_worker_was_asked_for_where_none_ever_is(group, reason, because, todo):
    board = Board(group)
    request, _ = board.ask()
    why = waiting.why(board.the, request, 0.0)
    assert why.reason == reason
    assert because in why.sentence and todo in why.sentence
    board = Board(group, {})  # the other one may start
    request, _ = board.ask()
    assert waiting.why(board.the, request, 0.0).reason == "no_worker"
    _failing(board, Cause.MODEL_OOM)
    assert waiting.why(board.the, request, 0.0).reason == "failing"


def test_every_group_that_takes_no_part_is_named_and_the_first_to_mend_gives_the_code():
    board = Board({"weight": 0.0, "name": "old"}, {"provider": "external", "name": "own"}, {"weight": 0.0})
    request, _ = board.ask()
    why = waiting.why(board.the, request, 0.0)
    assert why.reason == "external"
    assert "old has weight 0; own takes only machines that people bring; g3 has weight 0" in why.sentence
    many = Board(*[{"weight": 0.0}] * 9)
    request, _ = many.ask()
    assert "g5 has weight 0; and 4 more." in waiting.why(many.the, request, 0.0).sentence


def test_workers_of_a_group_with_weight_0_are_nobodys_help():
    board = Board({"weight": 0.0})
    board.add(1, perf=0.01)
    request, placement = board.ask()
    assert placement is None
    assert waiting.why(board.the, request, 0.0).reason == "weight_0", "a ready worker that gets nothing is not busy"
    board = Board({"weight": 0.0})
    board.add(1, state=WorkerState.LOADING)
    assert waiting.why(board.the, board.ask()[0], 0.0).reason == "weight_0"


@pytest.mark.parametrize("limits", [{"group": {"max_workers": 1}}, {"settings": {"max_workers": 1}}])
def test_where_there_is_no_room_for_one_more_that_is_why(limits):
    board = Board(limits.get("group", {}), **limits.get("settings", {}))
    request, _ = board.ask()
    assert waiting.why(board.the, request, 0.0).reason == "no_worker"
    board.add(1, state=WorkerState.DRAINING)
    assert waiting.why(board.the, request, 0.0).reason == "full"
    board.add(1, state=WorkerState.STOPPED)
    assert waiting.why(board.the, request, 0.0).reason == "no_worker", "who lies cold is started"


def test_an_order_of_people_comes_before_what_fails():
    board = Board(state=EndpointState.SUSPENDED)
    _failing(board, Cause.MODEL_OOM)
    assert waiting.why(board.the, board.ask()[0], 0.0).reason == "suspended", "nothing is tried again"


def test_who_waits_for_a_start_is_told_how_long_starts_take_here():
    board = Board()
    request, _ = board.ask()

    def said(n, state, at):
        board.worker(record(n, state=state, state_at=at), board.now)

    said(1, WorkerState.CREATING, 100.0)
    assert waiting.why(board.the, request, 110.0).eta_s is None  # nothing to go by yet
    said(1, WorkerState.MODEL_LOADING, 120.0)
    said(1, WorkerState.READY, 140.0)
    said(1, WorkerState.STOPPED, 200.0)
    said(2, WorkerState.PENDING, 1000.0)
    said(3, WorkerState.STARTING, 1010.0)
    other, _ = board.ask()
    assert waiting.why(board.the, other, 1010.0).eta_s == 30.0
    assert "about 30 s" in waiting.why(board.the, other, 1010.0).sentence
    assert waiting.why(board.the, other, 2000.0).eta_s == 0.0
    said(2, WorkerState.ERROR, 1020.0)
    assert waiting.why(board.the, other, 1010.0).eta_s == 40.0
    said(3, WorkerState.READY, 1110.0)
    assert board.the.fleet.starts.usual_s == 58.0
