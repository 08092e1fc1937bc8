"""Recorded traffic, read from a folder that is not part of the project.

`TRACES=folder` names it; without, a folder `shared/traces` beside the checkout is used when there is one. Files are gzip'd CSV
with the header `t_ms,in_tok,out_tok`, in order of time. `sim.convert` makes them from the public data sets.
"""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .workload import Workload, sized

HEADER = "t_ms,in_tok,out_tok"
DEFAULT_FOLDER = Path(__file__).resolve().parents[1].parent / "shared" / "traces"


@dataclass(frozen=True, slots=True)
class Sizing:
    """How big a pool a trace is played against."""

    mean_workers: float  #: the speed of a worker is set so that the mean load is this many
    slots: int
    max_workers: int
    min_workers: int


SIZING = {
    "azure_conv_2023": Sizing(6, 8, 48, 1),
    "azure_code_2023": Sizing(4, 8, 48, 1),
    "mooncake_conv": Sizing(8, 8, 48, 1),
    "alibaba_r1_day": Sizing(6, 8, 64, 1),
    "alibaba_tenant_diurnal_week": Sizing(3, 2, 64, 0),
    "alibaba_tenant_bursty_week": Sizing(2, 2, 96, 0),
    "burstgpt_week": Sizing(0.06, 8, 16, 0),
}
#: Of a trace that is not in the table.
USUAL_SIZING = Sizing(4, 8, 64, 0)


class TracesMissing(FileNotFoundError):
    """There is no such trace, or no folder of traces."""


def folder() -> Path | None:
    """Where the traces lie, or None."""
    named = os.environ.get("TRACES")
    path = Path(named) if named else DEFAULT_FOLDER
    return path if path.is_dir() else None


def available() -> list[str]:
    """Names of the known traces that are there, in the order of the tables."""
    where = folder()
    return [] if where is None else [name for name in SIZING if (where / f"{name}.csv.gz").is_file()]


def others() -> list[str]:
    """Names of further traces in the folder, by name. Files with more columns than a trace's are for other benchmarks."""
    where = folder()
    found = [] if where is None else sorted(where.glob("*.csv.gz"))
    names = [path.name.removesuffix(".csv.gz") for path in found if _first_line(path).strip() == HEADER]
    return [name for name in names if name not in SIZING]


def _first_line(path: Path) -> str:
    """Empty when it is no text under gzip."""
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            return file.readline(100)
    except (OSError, EOFError, UnicodeDecodeError):
        return ""


def load(name: str) -> Workload:
    """Raises TracesMissing when the file is not there, ValueError when it is not a trace."""
    where = folder()
    if where is None:
        raise TracesMissing("no folder of traces: set TRACES to one (sim.convert makes them from the public data sets)")
    path = where / f"{name}.csv.gz"
    if not path.is_file():
        raise TracesMissing(f"no trace {name}: expected {path}")
    with gzip.open(path, "rt", encoding="ascii") as file:
        if not file.readline().startswith(HEADER):
            raise ValueError(f"{path} is not a trace: its first line must be {HEADER}")
        rows = np.loadtxt(file, delimiter=",", dtype=np.int64, usecols=(0, 1, 2), ndmin=2)
    sizing = SIZING.get(name, USUAL_SIZING)
    return sized(
        name,
        rows[:, 0] * 1000,
        (rows[:, 1] + rows[:, 2]).astype(np.float64),
        mean_workers=sizing.mean_workers,
        slots=sizing.slots,
        max_workers=sizing.max_workers,
        min_workers=sizing.min_workers,
    )
