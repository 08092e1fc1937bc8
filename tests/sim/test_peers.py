"""The peers, step by step by hand: a wrong peer would make us look good."""

import pytest

from sim import synthetic
from sim.observation import Observation
from sim.peers import PEERS, peer
from sim.peers.aibrix import AIBrix
from sim.peers.baseten import Baseten
from sim.peers.dynamo import DynamoThroughput, DynamoThroughputAndLoad, LevelAndTrend
from sim.peers.knative import KnativeAutoscaler
from sim.peers.kubernetes import HorizontalPodAutoscaler
from sim.peers.modal import Modal
from sim.peers.ray_serve import RayServe
from sim.peers.runpod import RunpodQueueDelay, RunpodRequestCount
from sim.peers.sagemaker import SageMaker
from sim.peers.skyserve import SkyServe
from sim.peers.vast import DocumentedColdPool, VastLike
from sim.policy import PoolFacts
from sim.run import run
from sim.windows import HighestOver, MeanOver

POOL = PoolFacts(slots=10, min_workers=0, max_workers=100, mean_service_s=10.0)


class Told:
    """Feeds a policy one observation per tick, keeping the running totals."""

    def __init__(self, policy):
        self.policy = policy
        self.now_s = 0.0
        self.present_s = self.arrived_s = 0.0
        self.arrived = 0

    def tick(self, *, present=0.0, serving=None, ready=1, coming=0, arrived=0, arrived_s=0.0, oldest_wait_s=0.0):
        """`present`: requests in the system on average since the last tick, and now; those not `serving` wait."""
        step_s = self.policy.interval_s
        self.now_s += step_s
        self.present_s += present * step_s
        self.arrived += arrived
        self.arrived_s += arrived_s
        in_service = int(present) if serving is None else serving
        return self.policy.decide(
            Observation(
                now_s=self.now_s,
                ready=ready,
                coming=coming,
                waiting=int(present) - in_service,
                serving=in_service,
                oldest_wait_s=oldest_wait_s,
                present_s=self.present_s,
                arrived=self.arrived,
                arrived_s=self.arrived_s,
            )
        )

    def ticks(self, count, **seen):
        return [self.tick(**seen) for _ in range(count)]


# --- windows ---------------------------------------------------------------------------------------------------------


def test_a_mean_covers_its_window_and_less_at_the_beginning():
    mean = MeanOver(10)
    assert mean.add(5, 50) == 10
    assert mean.add(10, 50) == 5
    assert mean.add(15, 50) == 0
    assert mean.add(20, 70) == 2


def test_a_high_water_mark_is_forgotten_after_its_window():
    highest = HighestOver(10)
    assert [highest.add(t, v) for t, v in ((0, 5), (5, 3), (10, 1), (11, 1), (15, 0), (16, 0))] == [5, 5, 5, 3, 3, 1]


# --- Knative -----------------------------------------------------------------------------------------------------------


def test_knative_divides_the_stable_average_by_its_target():
    told = Told(KnativeAutoscaler(POOL))  # target: 7 of 10 slots
    told.ticks(30, present=21, ready=3)
    assert told.tick(present=21, ready=3) == 3
    assert told.tick(present=22, ready=4) == 4  # 1270 / 60 / 7 = 3.02


def test_knative_panics_when_six_seconds_ask_for_twice_the_pods():
    told = Told(KnativeAutoscaler(POOL))
    assert told.ticks(30, present=7, ready=1)[-1] == 1
    assert told.tick(present=7, ready=1) == 1
    # two seconds of 28 among six: (7 + 7 + 28) / 3 = 14 = exactly twice one pod's target
    assert told.tick(present=28, ready=1) == 2
    # the burst goes on: the panic average rises to 4 pods and is never followed down
    assert told.ticks(2, present=28, ready=2) == [3, 4]
    assert told.ticks(20, present=1, ready=4) == [4] * 20


def test_knative_extends_its_panic_and_leaves_it_sixty_seconds_after_the_last_excess():
    told = Told(KnativeAutoscaler(POOL))
    told.ticks(30, present=7, ready=1)
    told.ticks(3, present=28, ready=1)
    last_excess_s = told.now_s
    extended = told.tick(present=28, ready=1)
    assert extended == 4
    last_excess_s = told.now_s
    quiet = []
    while told.now_s < last_excess_s + 70:
        quiet.append((told.now_s + 2 - last_excess_s, told.tick(present=0.5, ready=4)))
    assert {wanted for since_s, wanted in quiet if since_s <= 60} == {4}
    assert {wanted for since_s, wanted in quiet if since_s > 62} == {2}  # max-scale-down-rate: floor(4 / 2)


def test_knative_goes_to_zero_after_a_quiet_window_and_the_grace_period():
    told = Told(KnativeAutoscaler(POOL))
    told.ticks(10, present=5, ready=1)
    begun_s = told.now_s
    wanted = [(told.now_s + 2 - begun_s, told.tick(present=0, ready=1)) for _ in range(60)]
    assert [since_s for since_s, count in wanted if count == 0][0] == 60 + 30


# --- Kubernetes and KEDA ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("present,wanted", [(77, 10), (78, 12), (63, 10), (62, 9)])
def test_the_hpa_keeps_still_within_a_tenth(present, wanted):
    """10 pods, target 7 each: the ratio 1.1 itself is inside, 0.9 as well."""
    told = Told(HorizontalPodAutoscaler(POOL))
    told.now_s = 600.0
    assert told.tick(present=present, ready=10) == wanted


def test_the_hpa_doubles_at_most_or_adds_four():
    assert Told(HorizontalPodAutoscaler(POOL)).tick(present=700, ready=3) == 7
    assert Told(HorizontalPodAutoscaler(POOL)).tick(present=700, ready=10) == 20


def test_the_hpa_comes_down_to_the_highest_wish_of_five_minutes():
    told = Told(HorizontalPodAutoscaler(POOL))
    assert told.tick(present=70, ready=10) == 10
    assert told.ticks(20, present=7, ready=10) == [10] * 20  # 300 s later the wish for 10 still counts
    assert told.tick(present=7, ready=10) == 1


def test_keda_wakes_from_zero_and_sleeps_after_its_cooldown():
    told = Told(HorizontalPodAutoscaler(POOL))
    assert told.tick(present=0, ready=0) == 0
    assert told.tick(present=1, serving=0, ready=0) == 1
    wanted = told.ticks(25, present=0, ready=1)
    assert wanted.index(0) == 20  # 21 ticks of 15 s after the last request: the first that is more than 300 s later
    never = Told(HorizontalPodAutoscaler(POOL._replace(min_workers=1)))
    assert set(never.ticks(50, present=0, ready=1)) == {1}


# --- Ray Serve -----------------------------------------------------------------------------------------------------------


def test_ray_scales_up_only_after_thirty_one_ticks_in_a_row():
    told = Told(RayServe(POOL))  # target: 4 of 10
    told.ticks(60, present=4)
    # the 30-second mean passes 4 on the first tick and wants 2 at once
    assert told.ticks(30, present=8) == [1] * 30
    assert told.tick(present=8) == 2


def test_one_opposite_or_equal_tick_resets_rays_counter():
    told = Told(RayServe(POOL, 0.4))
    told.policy._ongoing = MeanOver(1)  # so that each tick stands for itself
    assert told.ticks(30, present=8) == [1] * 30
    assert told.tick(present=4) == 1  # equal: reset
    assert told.ticks(30, present=8) == [1] * 30
    assert told.tick(present=8) == 2
    assert told.ticks(600, present=4, ready=2) == [2] * 600
    assert told.tick(present=12, ready=2) == 2  # opposite: reset
    assert told.ticks(600, present=4, ready=2) == [2] * 600
    assert told.tick(present=4, ready=2) == 1


def test_rays_last_replica_goes_alone_and_the_first_comes_at_once():
    told = Told(RayServe(POOL))
    told.policy._ongoing = MeanOver(1)
    assert told.ticks(600, present=0) == [1] * 600
    assert told.tick(present=0) == 0
    assert told.tick(present=0, ready=0) == 0
    assert told.tick(present=3, serving=0, ready=0) == 1


# --- SkyServe ------------------------------------------------------------------------------------------------------------


def test_skyserve_waits_fifteen_periods_up_and_sixty_down():
    told = Told(SkyServe(POOL))  # 0.7 requests per second and replica; ticks of 5 s, periods of 20
    told.ticks(12, present=1, arrived=3)  # a minute of 0.6 per second
    wanted = told.ticks(4 * 15, present=1, arrived=7)  # 1.4 per second: 2 replicas
    assert wanted[:-1] == [1] * 59
    assert wanted[-1] == 2
    quiet = told.ticks(4 * 64, present=0, arrived=0)
    # the rate of the last minute falls below 1 replica's in the second period (0.93 -> 2, 0.47 -> 1 in the third)
    assert quiet.index(0) // 4 + 1 in (60, 61, 62)


def test_skyserve_divides_by_the_whole_window_also_when_it_is_young():
    told = Told(SkyServe(POOL))
    wanted = told.ticks(4 * 16, present=1, arrived=7)
    # 28 requests in the first 20 s are 0.47 per second of a minute, so the first period does not count
    assert wanted[:-1] == [1] * 63
    assert wanted[-1] == 2


@pytest.mark.parametrize("policy", [SkyServe, RayServe])
def test_who_keeps_a_wish_begins_with_what_is_there(policy):
    assert Told(policy(POOL)).tick(present=4, ready=6) == 6


def test_skyserves_counters_begin_again_after_any_other_period():
    told = Told(SkyServe(POOL))
    told.ticks(4 * 12, present=1, arrived=7)
    told.ticks(4 * 3, present=1, arrived=2)  # 1.07, 0.73, 0.4 per second in the minute: periods 13 and 14 count, the third resets
    assert set(told.ticks(4 * 14, present=1, arrived=7)) == {1}


def test_skyserve_without_replicas_reacts_within_five_seconds():
    told = Told(SkyServe(POOL))
    told.ticks(4 * 63, present=0)
    assert told.policy._wanted == 0
    assert told.tick(present=1, arrived=1, ready=0) == 1


# --- Runpod, Modal, Baseten --------------------------------------------------------------------------------------------------


def test_runpod_adds_when_somebody_waited_more_than_four_seconds():
    told = Told(RunpodQueueDelay(POOL))
    assert told.tick(present=35, serving=10, ready=1, oldest_wait_s=4.0) == 1
    assert told.tick(present=35, serving=10, ready=1, oldest_wait_s=4.5) == 4


def test_runpods_idle_workers_go_after_five_seconds():
    told = Told(RunpodQueueDelay(POOL))
    told.tick(present=35, ready=4)
    assert told.ticks(5, present=5, ready=4) == [4] * 5
    assert told.tick(present=5, ready=4) == 1


def test_runpods_request_count_divides_by_four_whatever_a_worker_can_do():
    assert Told(RunpodRequestCount(POOL)).tick(present=9) == 3
    assert Told(RunpodRequestCount(POOL, 0.9)).tick(present=9) == 1


def test_modal_has_a_container_for_every_input_and_keeps_it_a_minute():
    told = Told(Modal(POOL))
    assert told.tick(present=11) == 2
    assert told.ticks(60, present=0) == [2] * 60
    assert told.tick(present=0) == 0
    buffered = Told(Modal(POOL, 2))
    assert buffered.tick(present=11) == 4
    assert buffered.ticks(61, present=0)[-1] == 0


def test_baseten_halves_the_excess_each_minute_after_fifteen():
    told = Told(Baseten(POOL))
    assert told.tick(present=70, ready=1) == 10
    told.ticks(6, present=7, ready=10)  # the 60-second mean comes down to one replica's worth on the way
    wanted, ticks = 10, 0
    while wanted == 10:
        wanted, ticks = told.tick(present=7, ready=10), ticks + 1
    assert wanted == 10 - 9 // 2
    assert 85 <= ticks <= 90  # 90 since the mean first fell below 10 replicas' worth
    later = [told.tick(present=7, ready=6) for _ in range(6)]
    assert later == [6] * 5 + [6 - 5 // 2]


# --- SageMaker, Dynamo, AIBrix, Vast -------------------------------------------------------------------------------------------


def test_sagemaker_scales_out_after_three_points_and_then_cools_down():
    told = Told(SageMaker(POOL))
    assert told.ticks(3, present=21, ready=1) == [1, 1, 3]
    assert told.ticks(29, present=42, ready=3) == [3] * 29
    assert told.tick(present=42, ready=3) == 6


def test_sagemaker_scales_in_after_fifteen_minutes_below():
    told = Told(SageMaker(POOL))
    assert told.ticks(89, present=7, ready=4) == [4] * 89
    assert told.tick(present=7, ready=4) == 1
    assert told.ticks(200, present=0, ready=1)[-1] == 1


def test_dynamos_filter_follows_a_line():
    line = LevelAndTrend()
    expected = [line.add(10 + 3 * step) for step in range(60)]
    assert expected[-1] == pytest.approx(10 + 3 * 60, abs=0.5)
    # the first step by hand: P = [[2000+1, 1000], [1000, 1000.1]], gain 2001/2011 and 1000/2011
    first = LevelAndTrend()
    assert first.add(10) == pytest.approx(10 * 2001 / 2011 + 10 * 1000 / 2011)


def test_dynamo_takes_the_last_period_until_it_has_five_points():
    told = Told(DynamoThroughput(POOL))
    assert told.ticks(4, arrived_s=180 * 25) == [3] * 4
    told = Told(DynamoThroughput(POOL, 0.5))
    assert told.ticks(4, arrived_s=180 * 25) == [5] * 4


def test_dynamos_load_mode_moves_one_step_at_a_time_above_the_floor():
    told = Told(DynamoThroughputAndLoad(POOL))
    assert told.tick(present=12, serving=10, ready=1) == 2  # 2 waiting: 2 s expected, above 0.5
    assert told.tick(present=12, serving=10, ready=1, coming=1) == 2  # a step is in flight
    assert told.tick(present=8, ready=2) == 1  # 8 <= 0.8 x 10
    assert told.tick(present=9, ready=2) == 2
    assert told.tick(present=0, ready=1) == 1


def test_aibrix_doubles_at_most_and_halves_at_most_within_its_tolerance():
    assert Told(AIBrix(POOL)).tick(present=7 * 4 * 1.1, ready=4) == 4
    assert Told(AIBrix(POOL)).tick(present=7 * 4 * 1.2, ready=4) == 5
    assert Told(AIBrix(POOL)).tick(present=7 * 4 * 5, ready=4) == 8
    assert Told(AIBrix(POOL)).tick(present=1, ready=4) == 2
    told = Told(AIBrix(POOL))
    assert told.tick(present=28, ready=4) == 4
    assert told.ticks(30, present=1, ready=4) == [4] * 30  # the wish for 4 counts for 300 s
    assert told.tick(present=1, ready=4) == 3  # the second wish: the mean was (28 + 1) / 2 then


def test_vasts_documented_rule_and_its_reaction_to_a_queue():
    told = Told(VastLike(POOL))
    assert told.ticks(12, present=18, arrived_s=5 * 18, ready=2)[-1] == 2  # 18 / 0.9 / 10
    # 11 waiting on one worker: 11 s of queue, above 10; their 110 s of work is to be done within 10 s
    assert told.tick(present=21, serving=10, arrived_s=5 * 18, ready=1) == 4  # 2.0 + 1.1
    told = Told(VastLike(POOL))
    told.tick(present=1, arrived_s=1.0)
    quiet = told.ticks(14, present=0)
    assert quiet[10] == 1
    assert quiet[-1] == 0
    assert DocumentedColdPool().total(0.0, 1) == 5
    assert DocumentedColdPool().total(0.0, 4) == 12


# --- all of them -----------------------------------------------------------------------------------------------------------


def test_there_are_thirteen_and_each_is_known_by_its_name():
    assert len(PEERS) == 13
    assert {peer(one.name).name for one in PEERS} == {one.name for one in PEERS}
    with pytest.raises(KeyError, match="there are"):
        peer("nobody")


@pytest.mark.parametrize("one", PEERS, ids=lambda one: one.name)
def test_every_peer_runs_at_every_knob(one):
    workload = synthetic.make("steady", hours=0.1)
    pool = PoolFacts.of(workload)
    results = [run(workload, one.at(pool, knob)) for knob in (None, *one.knobs)]
    assert all(result.requests == len(workload.units) for result in results)
    assert len({result.hot_h for result in results}) > 1
