"""The offline lower bounds of the traces, as numbers: solving for them takes minutes, so nobody does it twice.

`make bench-bounds` writes bounds.json anew from the traces in TRACES. Each number goes with the content of the workload it was
found for, and counts for no other.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec

from bench.scaling import cache
from bench.scaling.compare import GOAL, WAIT_S
from bench.scaling.play import workload
from sim import traces
from sim.bound import Goal, bound

PATH = Path(__file__).with_name("bounds.json")
ASKED = Goal(attainment=GOAL, wait_s=WAIT_S)


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """Hot worker-hours that nobody goes below who begins `attainment` of the requests within `wait_s`."""

    trace: str
    content: str
    attainment: float
    wait_s: float
    boot_s: float
    fluid_h: float
    cover_h: float

    @property
    def hours(self) -> float:
        return max(self.fluid_h, self.cover_h)


def recorded() -> dict[str, Recorded]:
    """By trace."""
    found = msgspec.json.decode(PATH.read_bytes(), type=list[Recorded]) if PATH.is_file() else []
    return {one.trace: one for one in found}


def hours(trace: str) -> float | None:
    """The bound of a whole trace; None when there is none for just this workload."""
    found = recorded().get(trace)
    return found.hours if found and found.content == cache.content(workload(trace)) else None


def main() -> None:
    names = sys.argv[1:] or [*traces.available(), *traces.others()]
    if not names:
        sys.exit("no traces: set TRACES to a folder that has some (python -m sim.convert makes them)")
    known = recorded()
    for name in names:
        begun_s = time.monotonic()
        load = workload(name)
        found = bound(load, ASKED)
        known[name] = Recorded(
            trace=name,
            content=cache.content(load),
            attainment=ASKED.attainment,
            wait_s=ASKED.wait_s,
            boot_s=ASKED.boot_s,
            fluid_h=round(found.fluid_h, 4),
            cover_h=round(found.cover_h, 4),
        )
        print(f"{name}: {known[name].hours:.3f} h ({time.monotonic() - begun_s:.0f} s)", flush=True)
        in_order = sorted(known.values(), key=lambda one: [*traces.SIZING, one.trace].index(one.trace))
        PATH.write_bytes(msgspec.json.format(msgspec.json.encode(in_order), indent=2) + b"\n")


if __name__ == "__main__":
    main()
