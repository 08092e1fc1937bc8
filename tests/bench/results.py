"""Results as a benchmark would have measured them, for the tests of what is made of them."""

from bench.scaling import bars
from bench.scaling.cases import Case, Played
from bench.scaling.compare import Table
from bench.scaling.measured import Measured
from sim.metrics import Result

CONV, CODE = "azure_conv_2023", "azure_code_2023"


def played(attained, hot_h, *, cost=0.0, starts=10, rejected=0, overdue=0, hours=1.0, **case):
    result = Result(
        requests=100,
        attainment={"2": attained - 0.01, "5": attained, "15": attained + 0.01},
        wait_p50_s=0.0,
        wait_p95_s=1.0,
        wait_p99_s=2.0,
        rejected=rejected,
        hot_h=hot_h,
        stopped_h=1.0,
        creating_h=0.0,
        cost=cost,
        starts=starts,
        creations=0,
        failed_boots=0,
        stops=0,
        crashes=0,
        preemptions=0,
        no_offers=0,
        flaps=3,
        utilisation=0.5,
        digest="",
        overdue=overdue,
    )
    return Played(Case(**{"trace": CONV, **case}), result, hours)


def measured(*runs, seeds=(1,), bounds=None, decision=None, engine_step=None):
    return Measured(Table(runs), bounds or {}, seeds, decision, engine_step)


def bar_of(found, name):
    return next((bar for bar in bars.every(found) if bar.bench == name), None)


# --- what is played ------------------------------------------------------------------------------------------------------
