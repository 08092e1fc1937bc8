"""The numbers of the engine: one set for every endpoint. Nothing here is tuned to a workload by hand; the engine tunes itself.

Their shape is from the literature named where they are used. Their values come from replaying recorded traffic
(bench/scaling.py) and were checked on traffic that had no part in choosing them.
"""

from __future__ import annotations

import msgspec


class Constants(msgspec.Struct, frozen=True, kw_only=True):
    # rules (see `rules`)
    forecast_s: tuple[float, ...] = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0)  #: smoothing of the arriving work in a forecast
    average_s: tuple[float, ...] = (10.0, 20.0, 40.0)  #: smoothing of the load itself
    margins: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
    holds_s: tuple[float, ...] = (0.0, 20.0, 60.0, 300.0, 1200.0)
    rises_s: tuple[float, ...] = (0.0, 5.0, 15.0)  #: how slowly a peak is followed up
    falls_s: tuple[float, ...] = (60.0, 240.0, 600.0, 1800.0)  #: how slowly it is forgotten
    peak_shares: tuple[float, ...] = (0.8, 0.9, 1.0, 1.15)
    keep_workers: tuple[int, ...] = (1, 2)
    keeps_s: tuple[float, ...] = (60.0, 120.0, 240.0, 480.0, 900.0, 1800.0, 3600.0, 7200.0)
    common_s: float = 20.0  #: smoothing, margin and hold of the rule that is followed at first, and below kept workers
    common_margin: float = 1.0
    common_hold_s: float = 60.0
    # from load to workers
    up_slack: float = 0.3  #: of a worker by which the need may exceed the target
    loose_util: float = 0.9  #: a target_util below this holds to within strict_slack of a worker, else to within up_slack
    strict_slack: float = 0.02
    planned_reluctance: float = 0.1  #: further below by so much before somebody goes; `reluctance` where it is strict
    asleep_slots: float = 0.05  #: less load than this needs nobody
    # peakedness
    surprise_memory_s: float = 7200.0
    surprise_floor: float = 0.3  #: slots; less load than this is taken as this much when a margin is added
    # shadows
    drain_rounds: float = 2.5  #: a worker is empty after so many mean residual service times
    draining_share: float = 0.5  #: of a draining worker's slots that still serve, on average
    # score
    half_lives_s: tuple[float, ...] = (1800.0, 14_400.0, 172_800.0)
    late_share: float = 0.037  #: of requests that may wait longer than the target
    late_price: float = 40.0  #: of one late request too many: service times (or cold starts, when longer) of one slot
    cold_start_s: float = 27.3  #: what a cold start counts there; not scaled up with slow machines
    # calibration
    slack_start: float = 1.0
    slack_least: float = 0.25
    slack_most: float = 1.5
    slack_gain: float = 0.15
    slack_batch: int = 100  #: started requests per correction
    # choice
    sharpness: float = 30.0
    rounding: float = 0.5
    reluctance: float = 0.3  #: of a worker by which the wish must be past the border to the next number
    follow_prior_s: float = 180.0  #: before there is anything to compare
    caution_s: float = 600.0  #: not below what was there before
    # what costs are worth
    worth_half_life_s: float = 1800.0
    worth_prior_s: float = 300.0  #: worker-seconds of work by which the benchmark and the clients are believed at first
    # the stopped pool
    creation_worth_s: float = 330.0  #: hot worker-seconds that one avoided creation is worth
    storage_share: float = 0.05  #: price of a stopped worker over a hot one's, where no offer says
    pool_half_life_s: float = 8 * 3600.0  #: memory of how often each level is used
    pool_least_uses_per_day: float = 0.3
    pool_kept_least_s: float = 1800.0
    pool_kept_most_s: float = 7 * 86_400.0


DEFAULT = Constants()
