"""All that a run has found out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bench.scaling.compare import Table
from bench.scaling.decision import Times


class Measured(NamedTuple):
    table: Table
    bounds: Mapping[str, float]  #: trace -> hot hours
    seeds: Sequence[int]
    decision: Times | None
    engine_step: Times | None = None
