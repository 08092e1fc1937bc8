"""How the benchmark of scaling compares results."""

import pytest

from bench.scaling.cases import OURS
from bench.scaling.compare import Table, agreement, cheapest, frontier, geometric_mean, to_be_sure
from tests.bench.results import CODE, CONV, played


def test_seeds_are_averaged_and_their_range_kept():
    found = Table([played(0.96, 10, seed=1), played(0.94, 14, seed=2, rejected=3, starts=30)]).get(CONV)
    assert (found.seeds, found.attainment, found.hot_h) == (2, pytest.approx(0.95), 12)
    assert found.attained[1:] == (0.94, 0.96)
    assert found.hot == (12, 10, 14)
    assert (found.rejected, found.starts_per_hour) == (3, 20)
    assert found.within[2.0] == pytest.approx((0.94, 0.93, 0.95))


def test_tables_do_not_depend_on_what_was_played_first():
    runs = [
        played(0.9, 1.0, policy=name, trace=trace)
        for name in ("SkyServe", OURS, "AIBrix APA")
        for trace in (CODE, CONV, "another")
    ]
    for order in (runs, runs[::-1]):
        found = Table(order)
        assert found.traces() == [CONV, CODE, "another"]
        assert [one.setting.policy for one in found.peers(CONV)] == ["AIBrix APA", "SkyServe"]


def test_the_cheapest_peer_must_attain_as_much_on_all_seeds():
    runs = [
        played(0.97, 12, policy="SkyServe", seed=1),
        played(0.97, 12, policy="SkyServe", seed=2),
        played(0.99, 11, policy="Modal-like", seed=1),  # one seed only
        played(0.95, 9, policy="AIBrix APA", seed=1),
        played(0.95, 9, policy="AIBrix APA", seed=2),
    ]
    peers = Table(runs).peers(CONV)
    assert cheapest(peers, 0.96, 2).setting.policy == "SkyServe"
    assert cheapest(peers, 0.96, 1).setting.policy == "Modal-like"
    assert cheapest(peers, 0.98, 2) is None


def test_what_may_be_the_cheapest_is_played_under_all_seeds_until_it_is_known():
    of_first = {0.5: (0.92, 7), 0.6: (0.935, 8), 0.7: (0.97, 9), 0.8: (0.98, 9.05), 0.9: (0.99, 12)}
    runs = [played(*figures, policy="AIBrix APA", knob=knob) for knob, figures in of_first.items()]
    ahead = to_be_sure(Table(runs).peers(CONV), 0.96, (1, 2))
    assert {case.knob for case in ahead} == {0.6, 0.7, 0.8}  # .5 attains too little for any luck to mend, .9 has its turn later
    assert {case.seed for case in ahead} == {1, 2}
    second = [played(attained, of_first[case.knob][1], policy="AIBrix APA", knob=case.knob, seed=2)
              for case in ahead for attained in [of_first[case.knob][0]] if case.seed == 2]  # fmt: skip
    peers = Table(runs + second).peers(CONV)
    assert to_be_sure(peers, 0.96, (1, 2)) == []
    assert cheapest(peers, 0.96, 2).setting.knob == 0.7
    assert to_be_sure(Table(runs).peers(CONV), 0.96, (1,)) == []


def test_the_frontier_is_whoever_nobody_beats():
    assert frontier([(3, 0.9), (1, 0.5), (2, 0.95), (2, 0.9), (4, 0.95), (5, 0.99)]) == [(1, 0.5), (2, 0.95), (5, 0.99)]
    assert frontier([]) == []


def test_means_and_orders():
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert agreement([1, 2, 3], [10, 20, 30]) == 1
    assert agreement([1, 2, 3], [3, 2, 1]) == -1
    assert agreement([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)


# --- the bars ----------------------------------------------------------------------------------------------------------------
