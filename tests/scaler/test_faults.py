"""What breaks and what is done about it: phases that hang, bad hosts, reboots within a budget, machines that are taken back."""

import msgspec
import pytest

from scaler import ageing, groups, learning, observations, phases, reboots
from scaler.types import GroupMemory, HostMemory, Liveness, Policy, Telemetry, WorkerFact
from schemas.ids import WorkerId
from schemas.reasons import Cause, Phase, Why
from schemas.records import Failure, Template
from schemas.states import WorkerState
from tests.scaler.story import G1, G2, T0, Story, group

OOM = Failure(cause=Cause.MODEL_OOM, message="out of memory", at=T0)
POLICY = Policy()


def one_hot(**more) -> Story:
    """An endpoint that keeps one worker hot; it has proven itself."""
    story = Story(**{"create_s": 20, "start_s": 10, "inactivity_timeout": -1, **more})
    story.until(story.create_s + 100)
    assert story.ready == 1
    return story


def only(story) -> WorkerId:
    (worker,) = story.workers(WorkerState.READY)
    return worker.worker_id


# --- phases ---


def test_the_durations_of_phases_are_learned_from_what_starts_went_through():
    story = Story(create_s=60, min_load=290).until(300)
    seen = story.state.groups[G1].phase_s
    assert set(seen) == {"rent", "boot", "model"}
    assert seen["boot"] == pytest.approx((29.0,) * 3, abs=2) and seen["model"] == pytest.approx((30.0,) * 3, abs=2)
    assert phases.quantile_s(story.state.groups[G1], Phase.MODEL, from_cold=False, quantile=0.5) == pytest.approx(30, abs=2)
    assert phases.quantile_s(story.state.groups[G1], Phase.BENCH, from_cold=False, quantile=0.5) is None


def test_a_limit_needs_enough_starts_and_has_a_floor():
    known = GroupMemory()
    for _ in range(POLICY.phase_samples - 1):
        known = phases.learned(known, Phase.MODEL, 100.0, from_cold=False)
    assert phases.limit_s(known, Phase.MODEL, POLICY, from_cold=False) is None
    known = phases.learned(known, Phase.MODEL, 110.0, from_cold=False)
    assert phases.limit_s(known, Phase.MODEL, POLICY, from_cold=False) == 330.0
    assert phases.limit_s(known, Phase.MODEL, POLICY, from_cold=True) is None, "from cold is another matter"
    for _ in range(40):
        known = phases.learned(known, Phase.MODEL, 2.0, from_cold=False)
    assert phases.limit_s(known, Phase.MODEL, POLICY, from_cold=False) == POLICY.phase_floor_s
    assert len(known.phase_s["model"]) == 12, "bounded"


def test_a_start_that_hangs_in_a_phase_ends_long_before_its_template_says():
    patient = group(template=Template(name="t", start_timeout_s=7200.0))
    story = Story(groups=(patient,), create_s=80, min_load=490).until(400)
    assert story.ready == 5
    story.boots_s[G1] = 1e6  # the next one never loads its model
    story.sets(min_load=590)
    story.until(402)
    hanging = story.ops("create")[-1][1]
    story.until(530)
    assert story.ready == 5
    failure = story.state.groups[G1].last_failure
    assert (failure.cause, failure.phase) == (Cause.HANG, Phase.BOOT)
    assert "in phase boot for" in failure.message and "120 s is the limit" in failure.message
    ended = {w: at for at, w in story.ops("destroy")}
    assert ended[hanging] - 402 == pytest.approx(121, abs=6)


def test_a_phase_limit_that_was_too_short_grows_by_itself():
    story = Story(groups=(group(template=Template(name="t", start_timeout_s=7200.0)),), create_s=60, min_load=490).until(400)
    story.boots_s[G1] = 600.0  # from now on starts are slower, and work
    story.sets(min_load=590).until(3000)
    assert story.ready == 6, "the second try was given three times as long"
    assert story.state.groups[G1].breaker is None


def test_a_learned_limit_is_never_above_the_templates():
    strict = group(template=Template(name="t", start_timeout_s=100.0))
    story = Story(groups=(strict,), create_s=80, min_load=490).until(400)
    story.boots_s[G1] = 1e6
    story.sets(min_load=590).until(510)
    assert "start_timeout_s is 100" in story.state.groups[G1].last_failure.message


# --- cost of failures, hosts ---


def test_the_breaker_knows_what_all_failed_starts_cost_together():
    story = Story(groups=(group(expected_perf=None),), create_s=3000.0)
    story.prices[G1] = 3.6  # a tenth of a cent per second
    story.fails[G1], story.fails_after_s = OOM, 100.0
    story.asks(10).until(900)
    breaker = story.state.groups[G1].breaker
    assert breaker.failures == 3
    assert breaker.cost_usd == pytest.approx(3 * 100 * 0.001, rel=0.05)
    assert f"${breaker.cost_usd:.2f} spent on them" in story.decisions[-1].sentence


def test_a_host_that_fails_two_groups_is_left_alone_by_all_of_them():
    story = Story(groups=(group(G1, weight=3.0), group(G2, weight=1.0)), create_s=20, min_load=390).until(300)
    assert story.ready == 4
    for group_id in (G1, G2):
        worker = next(w for w in story.state.workers.values() if w.group_id == group_id)
        start = msgspec.structs.replace(worker, worker_id=WorkerId(f"x{group_id}"), host="bad", proven=False, ready_at=None)
        start = msgspec.structs.replace(start, state=WorkerState.LOADING, beat_state=None, state_at=story.now)
        story.state = msgspec.structs.replace(story.state, workers={**story.state.workers, start.worker_id: start})
        story.state = ageing.blamed(story.state, start, OOM, story.now, story.policy)
        story.state = msgspec.structs.replace(
            story.state, workers={w: fact for w, fact in story.state.workers.items() if w != start.worker_id}
        )
    assert story.state.hosts["bad"].quarantined_until_at > story.now
    story.sets(min_load=790)
    decision = story.decide()
    story.until(story.now - T0 + 20)
    bought = [a for d in (decision, *story.decisions) for a in d.actions if a.op == "create" and d.at >= decision.at]
    assert bought and all(a.avoid_hosts == ("bad",) for a in bought)


def test_after_a_failed_start_the_next_one_is_put_elsewhere():
    """Whoever rents the cheapest gets the same host again: three starts there would tell nothing about the template."""
    story = Story(create_s=20, min_load=90)
    story.host, story.fails[G1] = "bad", OOM
    story.until(10)
    story.host = ""
    del story.fails[G1]
    story.until(200)
    assert story.ready == 1
    tries = [a.avoid_hosts for d in story.decisions for a in d.actions if a.op == "create"]
    assert tries[0] == () and set(tries[1:]) == {("bad",)}
    story.sets(min_load=190).until(400)
    later = [a.avoid_hosts for d in story.decisions for a in d.actions if a.op == "create"][len(tries) :]
    assert later == [("bad",)], "what failed there is remembered for a day"


def test_who_replaces_a_worker_that_failed_while_it_served_goes_elsewhere():
    story = one_hot(policy=Policy(reboots_per_worker=0))
    worker = only(story)
    host = story.machines[worker].host
    story.breaks(worker)
    story.until(900)
    assert story.ready == 1 and only(story) != worker
    tries = [a.avoid_hosts for d in story.decisions for a in d.actions if a.op == "create"]
    assert tries == [(), (host,)]


def test_where_there_is_no_other_host_the_one_that_failed_is_taken_again():
    from scaler.types import GroupMemory, HostMemory

    story = one_hot()
    memory = GroupMemory(failed_in_row=1, failed_hosts=("bad",))
    story.state = msgspec.structs.replace(
        story.state, groups={G1: memory}, hosts={"bad": HostMemory(failures=1, failed_at=story.now)}
    )
    assert groups.avoided(story.state, G1, story.now) == ("bad",)
    refused = msgspec.structs.replace(memory, missed_in_row=1)
    assert groups.avoided(msgspec.structs.replace(story.state, groups={G1: refused}), G1, story.now) == ()
    by_hand = learning.breaker_reset(memory)
    assert groups.avoided(msgspec.structs.replace(story.state, groups={G1: by_hand}), G1, story.now) == (), (
        "a person says try again"
    )
    forgotten = msgspec.structs.replace(story.state, hosts={})
    assert groups.avoided(forgotten, G1, story.now) == ()
    many = {f"h{n:02}": HostMemory(failures=2, quarantined_until_at=story.now + n + 1) for n in range(40)}
    full = groups.avoided(msgspec.structs.replace(story.state, hosts={**story.state.hosts, **many}), G1, story.now)
    assert full == tuple(sorted(many))[8:], "the newest quarantines fill the command"


def test_who_has_one_host_only_keeps_it_whatever_fails_there():
    """All machines of a provider on one computer share its name: shut out, nothing could start for an hour."""
    story = Story(create_s=20, start_s=10, min_load=90, max_workers=1, inactivity_timeout=0)
    story.host = "here"
    story.until(200)
    assert story.ready == 1
    story.sets(min_load=0).until(400)
    assert story.ready == 0 and len(story.workers(WorkerState.STOPPED)) == 1
    story.fails[G1] = Failure(cause=Cause.PORT_CONFLICT, message="its port was taken", at=story.now)
    story.sets(min_load=90).until(425)
    assert story.state.hosts["here"].failures == 2 and story.state.groups[G1].breaker is None
    assert story.state.hosts["here"].quarantined_until_at == 0.0
    del story.fails[G1]
    story.until(700)
    assert story.ready == 1


def test_a_host_is_forgotten_a_day_after_its_last_failure_and_when_it_works_again():
    story = one_hot()
    worker = story.state.workers[only(story)]
    hosts = {"once": HostMemory(failures=1, failed_at=story.now), worker.host: HostMemory(failures=1, failed_at=story.now)}
    story.state = msgspec.structs.replace(story.state, hosts=hosts)
    story.state = msgspec.structs.replace(story.state, workers={worker.worker_id: msgspec.structs.replace(worker, proven=False)})
    story.until(200)
    assert set(story.state.hosts) == {"once"}, "what runs there for a minute is no bad host"
    story.now += 86_500
    story.fold(observations.Ticked(at=story.now))
    assert story.state.hosts == {}


# --- reboots ---


def test_a_worker_that_fails_while_it_serves_is_rebooted_and_not_replaced():
    story = one_hot()
    worker = only(story)
    story.breaks(worker)
    story.decide()
    assert story.ops("reboot") == [(120.0, worker)]
    action = story.decisions[-1].actions[0]
    assert (action.op, action.why) == ("reboot", Why.REPLACE) and "rebooted, 1 of 2 times within an hour" in action.reason
    assert story.state.workers[worker].state is WorkerState.REBOOTING
    story.until(200)
    assert only(story) == worker
    assert len(story.ops("create")) == 1 and story.ops("destroy") == []


def test_the_budget_of_reboots_ends_and_then_it_is_replaced():
    # vast-ai/base-image 133: a fault that no reboot mends, and instances are rebooted for ever.
    story = one_hot()
    worker = only(story)
    for begin in (120, 300, 480):
        story.until(begin)
        story.breaks(worker).until(begin + 100)
    assert [w for _, w in story.ops("reboot")] == [worker, worker]
    assert [w for _, w in story.ops("destroy")] == [worker]
    assert story.ready == 1 and only(story) != worker


def test_a_reboot_that_does_not_mend_is_a_failed_start():
    story = one_hot()
    worker = only(story)
    story.mends = False
    story.breaks(worker).until(260)
    assert [w for _, w in story.ops("reboot")] == [worker]
    assert [w for _, w in story.ops("destroy")] == [worker]
    story.until(400)
    assert only(story) != worker


def test_a_group_has_a_budget_of_reboots_too():
    story = Story(create_s=20, start_s=10, min_load=790, policy=Policy(reboots_per_group=3)).until(200)
    for worker in story.workers(WorkerState.READY):
        story.breaks(worker.worker_id)
    story.decide()
    assert len(story.ops("reboot")) == 3
    assert len(story.ops("destroy")) == 5
    story.until(400)
    assert story.ready == 8


def test_who_never_proved_itself_whose_machine_is_gone_or_who_is_not_needed_is_not_rebooted():
    story = one_hot()
    fact = story.state.workers[only(story)]
    broken = msgspec.structs.replace(fact, failure=OOM)
    memory = story.state.groups[G1]

    def may(**changes) -> bool:
        return reboots.may(msgspec.structs.replace(broken, **changes), memory, 0, POLICY, story.now)

    assert may()
    assert not may(proven=False)
    assert not may(failure=Failure(cause=Cause.HOST_LOST, at=T0))
    assert not may(gone_at=story.now + 60)
    assert not may(instance_state="stopped")
    assert not may(rebooted_at=(story.now - 10, story.now - 20))
    assert may(rebooted_at=(story.now - 10, story.now - 4000)), "an hour later it has its budget again"
    two = Story(create_s=20, min_load=190).until(300)
    victim = two.workers(WorkerState.READY)[0].worker_id
    two.sets(min_load=90)
    two.breaks(victim)
    two.decide()
    assert (two.ops("reboot"), [w for _, w in two.ops("destroy")]) == ([], [victim]), "one is enough, and one is ready"


def test_a_worker_that_fell_silent_is_rebooted_once_it_had_its_moment():
    story = one_hot(create_s=300)
    worker = only(story)
    begin = story.now
    story.loses(worker)
    story.until(begin - T0 + 20)
    assert story.ops("reboot") == [], "it may come back by itself"
    assert len(story.ops("create")) == 2, "its replacement is on the way"
    story.until(begin - T0 + 80)
    assert [w for _, w in story.ops("reboot")] == [worker]
    assert only(story) == worker, "and was faster than the replacement, which was given up"
    assert len(story.ops("destroy")) == 1 and story.ops("destroy")[0][1] != worker


def test_a_reboot_that_nobody_carries_out_fails_soon():
    story = one_hot()
    worker = only(story)
    story.no_provider = True
    story.breaks(worker).until(125)
    assert story.state.workers[worker].intent.deadline_at - story.state.workers[worker].intent.issued_at == POLICY.reboot_ttl_s
    story.until(250)
    assert story.state.workers[worker].state is WorkerState.REBOOTING
    story.until(270)
    assert [w for _, w in story.ops("reboot")] == [worker, worker], "once more, within its budget"
    story.until(420)
    assert [w for _, w in story.ops("destroy")] == [worker]


def test_a_reboot_whose_middle_nobody_saw_is_a_new_start_all_the_same():
    story = one_hot()
    worker = only(story)
    story.breaks(worker)
    story.decide()
    machine = story.machines[worker]
    machine.rebooting, machine.instance, machine.starts, machine.seq, machine.error = False, "running", 2, 0, None
    machine.launched_at = machine.instance_at = story.now + 1
    story.now += 1
    story._show(machine)  # the first record that is seen says it runs again
    fact = story.state.workers[worker]
    assert (fact.state, fact.from_cold, fact.intent, fact.failure) == (WorkerState.STARTING, True, None, None)
    story.until(200)
    assert only(story) == worker


# --- machines that are taken back ---


def test_with_enough_notice_the_replacement_is_ready_before_the_drain():
    story = Story(create_s=60, min_load=190).until(300)
    victim = story.workers(WorkerState.READY)[0].worker_id
    story.warns(victim, 600.0)
    story.decide()
    assert [op for at, op in story.acts() if at >= 300] == ["create"], "bought at once, drained later"
    lowest = 2
    while victim in story.state.workers and story.now < T0 + 900:
        story.until(story.now - T0 + 2)
        lowest = min(lowest, story.ready)
    assert lowest == 2
    assert story.now < T0 + 900 and story.ready == 2


def test_with_little_notice_both_happen_at_once():
    story = Story(create_s=60, min_load=190).until(300)
    victim = story.workers(WorkerState.READY)[0].worker_id
    story.warns(victim, 60.0)
    decision = story.decide()
    assert sorted(a.op for a in decision.actions) == ["create", "drain"]


def test_a_start_on_a_machine_that_is_taken_back_is_given_up():
    story = Story(create_s=200, min_load=90).until(100)
    (coming,) = (w.worker_id for w in story.state.workers.values())
    story.warns(coming, 120.0)
    decision = story.decide()
    assert sorted((a.op, a.worker_id == coming) for a in decision.actions) == [("create", False), ("drain", True)]
    story.until(400)
    assert story.ready == 1


def test_silence_of_all_reboots_nobody():
    story = one_hot()
    story.telemetry(Telemetry.FROZEN)
    story.silent = True
    story.until(900)
    assert story.ops("reboot") == [] and story.ready == 1


@pytest.mark.parametrize("engine", ["reactive", "ensemble"])
def test_what_came_while_nothing_was_heard_is_no_burst(engine):
    """An outage of our own network of any length; the first report after it is about all of that time."""
    story = Story(policy=Policy(name=engine), create_s=20, start_s=10, max_workers=8, slots=8, cost=100, inactivity_timeout=-1)
    story.asks(130).until(600)
    before = story.ready
    for outage_s in (60, 600):
        story.telemetry(Telemetry.DEAF)
        story.silent = True
        story.until(story.now - T0 + outage_s)
        story.silent = False
        story.telemetry(Telemetry.LIVE)
        decision = story.decide()
        assert (decision.why, decision.sentence.rpartition(" before ")[2]) == (Why.NO_DATA, "routers were heard")
        acts = len(story.acts())
        story.until(story.now - T0 + 120)
        assert story.acts()[acts:] == [] and story.ready == before


def test_a_router_that_does_not_come_back_is_not_waited_for():
    story = one_hot()
    story.telemetry(Telemetry.DEAF)
    story.silent = True
    story.until(200)
    story.telemetry(Telemetry.LIVE)  # workers are heard, the router is not
    for _ in range(5):
        story.now += 1.0
        decision = story.decide()
    assert decision.why is not Why.NO_DATA


def test_reboots_are_counted_within_the_hour_only():
    assert reboots.recent((T0, T0 + 100, T0 + 3000), T0 + 3650) == 2
    worker = WorkerFact(worker_id=WorkerId("w"), group_id=G1, liveness=Liveness.LOST)
    assert worker.rebooted_at == ()
