"""Whom ours is compared with: on each trace the cheapest peer that attains as much."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from bench.scaling import cases
from bench.scaling.bar import Bar, at_most, without
from bench.scaling.compare import Summary, cheapest, geometric_mean, to_be_sure
from bench.scaling.measured import Measured

HOT = "hot GPU-h, ours / theirs - 1"
#: Why there is no rival.
NOBODY = "no peer attains as much"
NOT_SURE = "not all who may attain as much were played under all seeds"


class Rival(NamedTuple):
    trace: str
    ours: Summary
    best: Summary | None
    sure: bool = True  #: False: another may turn out to be the rival under other seeds

    @property
    def ratio(self) -> float | None:
        """Of hot hours, ours over theirs."""
        return None if self.best is None else self.ours.hot_h / self.best.hot_h

    @property
    def why_none(self) -> str:
        return NOBODY if self.sure else NOT_SURE

    def bar(self, bench: str, asked: float | None) -> Bar:
        if self.best is None:
            return without(f"{bench}.{self.trace}", asked, HOT, self.why_none, asked=asked is not None)
        return at_most(f"{bench}.{self.trace}", self.ours.hot_h / self.best.hot_h - 1, asked, HOT, vs=described(self.best))


def find(measured: Measured, ours: Summary, peers: Sequence[Summary], at: float = 1.0) -> Iterator[Rival]:
    """The cheapest of these that attains as much as ours, or as `at` if that is less; nothing when there are no peers."""
    if peers:
        attainment = min(ours.attainment, at)
        best = cheapest(peers, attainment, len(measured.seeds))
        sure = best is not None or not to_be_sure(peers, attainment, measured.seeds)
        yield Rival(ours.setting.trace, ours, best, sure)


def with_knobs(measured: Measured, trace: str, tier: str = cases.COLD) -> list[Summary]:
    """Every setting of every peer; nobody when knobs were not played."""
    peers = measured.table.peers(trace, tier=tier)
    return peers if any(one.setting.knob is not None for one in peers) else []


def oracle(measured: Measured, trace: str, tier: str = cases.COLD, at: float = 1.0) -> Summary | None:
    """The cheapest of all peers and knobs, in hindsight, that attains as much as ours, or as `at` if that is less; None when nobody does or
    knobs were not played."""
    ours = measured.table.get(trace, tier=tier)
    found = () if ours is None else find(measured, ours, with_knobs(measured, trace, tier), at)
    return next((rival.best for rival in found), None)


def mean(bench: str, rivals: Collection[Rival], bar: float | None, needed: Collection[str], vs: str = "") -> Iterator[Bar]:
    """The geometric mean over the traces that have a rival: who attains more than everybody on one is not excused on the others.
    The bar holds for all that are needed together, not for a selection."""
    ratios = [rival.ratio for rival in rivals if rival.ratio is not None]
    whole = set(needed) <= {rival.trace for rival in rivals}
    if whole and bar is not None and not all(rival.sure for rival in rivals):
        yield without(bench, bar, HOT, NOT_SURE)
    elif ratios:
        text = f"{vs}, {len(ratios)} traces" if vs else f"{len(ratios)} traces"
        yield at_most(bench, geometric_mean(ratios) - 1, bar if whole else None, HOT, vs=text)
    elif whole and bar is not None:
        yield without(bench, bar, HOT, NOBODY)


def described(one: Summary) -> str:
    """Who, at which setting, with which figures."""
    knob = "" if one.setting.knob is None else f" at {one.setting.knob:g}"
    return f"{one.setting.policy}{knob}: {one.attainment:.4f}, {one.hot_h:.2f} h"
