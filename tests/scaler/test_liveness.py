"""Who is alive, by what is heard and what is not."""

from scaler.liveness import AT_ONCE_S, LOST_S, SUSPECT_S, WARM_S, Vigil
from scaler.types import Liveness, Telemetry
from schemas.ids import WorkerId
from tests.scaler.facts import W1, W2, W3
from tests.scaler.story import EP


def vigil(*speakers: WorkerId, at: float = 0.0) -> Vigil:
    found = Vigil(at)
    for worker in speakers:
        found.expect(worker, EP, at)
        found.heard(worker, at)
    found.judge(at, connected=True)
    return found


def run(watch: Vigil, begin: float, end: float, speakers: tuple[WorkerId, ...], *, carries: bool = True, connected: bool = True):
    """(time, worker or telemetry, what) of every change; a beat per second, a judgement four times."""
    changes = []
    telemetry = watch.telemetry
    at = begin
    while at < end:
        if float(at).is_integer():
            for worker in speakers:
                watch.heard(worker, at)
        if carries:
            watch.carried(at)
        for found in watch.judge(at, connected=connected):
            changes.append((at, found.worker_id, found.liveness))
        if watch.telemetry is not telemetry:
            telemetry = watch.telemetry
            changes.append((at, telemetry))
        at += 0.25
    return changes


def test_one_of_three_falls_silent():
    watch = vigil(W1, W2, W3)
    assert run(watch, 0.0, 5.0, (W1, W2, W3)) == []
    assert run(watch, 5.0, 30.0, (W1, W2)) == [(4.0 + SUSPECT_S, W3, Liveness.SUSPECT), (4.0 + LOST_S, W3, Liveness.LOST)]


def test_all_fall_silent_at_once_and_nobody_is_dead():
    watch = vigil(W1, W2, W3)
    run(watch, 0.0, 5.0, (W1, W2, W3))
    assert run(watch, 5.0, 600.0, ()) == [(4.0 + SUSPECT_S, Telemetry.FROZEN)]
    assert run(watch, 600.0, 609.0, (W1, W2, W3)) == [(600.0, Telemetry.LIVE)]


def test_out_of_step_all_fall_silent_and_nobody_is_suspected_before():
    watch = Vigil(0.0)
    for worker in (W1, W2, W3):
        watch.expect(worker, EP, 0.0)
    changes, at = [], 0.0
    while at < 60.0:
        at += 0.125
        for phase, worker in ((0.125, W1), (0.5, W2), (0.875, W3)):
            if at < 20 and at % 1.0 == phase:
                watch.heard(worker, at)
        watch.carried(at)  # the bus brings other things all the time
        changes += watch.judge(at, connected=True)
    assert changes == []
    assert watch.telemetry is Telemetry.FROZEN


def test_who_stays_silent_after_the_thaw_is_judged_with_a_new_clock():
    watch = vigil(W1, W2, W3)
    run(watch, 0.0, 5.0, (W1, W2, W3))
    run(watch, 5.0, 100.0, ())
    changes = run(watch, 100.0, 120.0, (W1, W2))
    assert changes == [(100.0, Telemetry.LIVE), (100.0 + SUSPECT_S, W3, Liveness.SUSPECT), (100.0 + LOST_S, W3, Liveness.LOST)]


def test_two_that_die_apart_are_two_deaths():
    watch = vigil(W1, W2)
    run(watch, 0.0, 5.0, (W1, W2))
    run(watch, 5.0, 5.0 + AT_ONCE_S + 2, (W1,))
    lost = [change[1] for change in run(watch, 5.0 + AT_ONCE_S + 2, 40.0, ()) if change[-1] is Liveness.LOST]
    assert lost == [W2, W1]


def test_a_single_worker_is_judged_only_while_the_bus_carries_something():
    watch = vigil(W1)
    run(watch, 0.0, 5.0, (W1,))
    assert [c[-1] for c in run(watch, 5.0, 60.0, (), carries=False)] == [Liveness.SUSPECT], "until the bus fell silent too"
    assert [change[-1] for change in run(watch, 60.0, 61.0, ())] == [Liveness.LOST]


def test_deaf_ourselves_nobody_is_judged_and_all_clocks_start_anew():
    watch = vigil(W1, W2)
    run(watch, 0.0, 5.0, (W1, W2))
    assert run(watch, 5.0, 60.0, (), connected=False) == [(5.0, Telemetry.DEAF)]
    assert run(watch, 60.0, 63.0, ()) == [(60.0, Telemetry.LIVE)]


def test_when_we_stood_still_it_is_not_their_silence():
    watch = vigil(W1)
    run(watch, 0.0, 5.0, (W1,))
    watch.carried(65.0)
    assert watch.judge(65.0, connected=True) == (), "the process was stopped for a minute"
    assert run(watch, 65.25, 68.0, ()) == []


def test_a_new_leader_listens_before_it_judges():
    watch = Vigil(0.0)
    watch.expect(W1, EP, 0.0, spoke=True)
    watch.expect(W2, EP, 0.0, spoke=True)
    watch.judge(0.0, connected=True)
    assert watch.telemetry is Telemetry.WARMING
    watch.heard(W1, 1.0)
    watch.judge(1.0, connected=True)
    assert watch.telemetry is Telemetry.WARMING
    changes = run(watch, 1.25, 20.0, (W1,))
    assert (WARM_S, Telemetry.LIVE) in changes
    assert [change[1] for change in changes if change[-1] is Liveness.LOST] == [W2]


def test_who_never_spoke_is_not_lost_by_silence():
    watch = vigil(W1)
    watch.expect(W2, EP, 0.0)
    assert run(watch, 1.0, 60.0, (W1,)) == []
