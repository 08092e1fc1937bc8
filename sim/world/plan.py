"""What a simulated world is made of, before anything happens in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provisioner.reconcile import Rhythm
from runtime.lease import LeaseTimes
from scaler.settings import ScalerSettings
from schemas.ids import GroupId
from schemas.records import Template, WorkerGroup
from sim.weather import Weather

MARKET = "market"  #: the provider's name
STARTED_AT = 1_700_000_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A sort of machine on offer. Groups ask for it by its name, in `search_params`. Times are drawn log-normally around medians."""

    name: str = ""
    perf: float = 100.0  #: units per second, as its benchmark finds
    slots: int = 8
    speed: float = 1.0  #: what it really does, over what its benchmark found
    usd_per_hour: float = 1.0
    storage_usd_per_hour: float = 0.05
    stock: int = 10_000  #: machines that exist of it
    per_host: int = 4  #: machines on one host; hosts are filled in the order of their numbers, as the cheapest is taken first
    create_s: float = 60.0  #: median from rented to ready
    start_s: float = 15.0  #: median from stopped to ready
    sigma: float = 0.2
    fails: float = 0.0  #: share of starts whose model does not load
    hangs: float = 0.0  #: share of starts that never come to an end
    gateway_s: float = 0.0  #: after a start's model is measured, until the provider's gateway lets callers through to it


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    keys_dir: Path  #: of the routers; made on first use, shared by worlds
    seed: int = 1
    scalers: int = 2
    routers: int = 2
    provisioners: int = 1
    weather: Weather = field(default_factory=Weather)
    kinds: tuple[Kind, ...] = (Kind(),)
    scaler: ScalerSettings = field(default_factory=ScalerSettings)  #: as in production, with the engine in use
    lease: LeaseTimes = field(default_factory=LeaseTimes)
    rhythm: Rhythm = field(default_factory=Rhythm)
    ticket_ttl_s: float = 60.0
    api_s: tuple[float, float] = (0.3, 2.0)  #: how long the provider takes to answer
    busy: float = 0.0  #: share of the provider's answers that are "not now"
    travel_s: float = 0.02  #: of a client's call
    grain_s: float = 0.0  #: see sim.virtual_time; 0 is exact
    quiet_grain_s: float | None = None  #: while no machine runs and nobody asks; None: as grain_s
    orphan_grace_s: float = 120.0  #: a machine may be unknown for this long
    settle_s: float = 1500.0  #: after a story, before the accounts are closed


def group(group_id: int = 1, *, kind: str = "", **fields: Any) -> WorkerGroup:
    """A worker group that rents machines of this kind."""
    template = fields.pop("template", None) or Template(name="model", command=("serve",), start_timeout_s=600.0)
    usual: dict[str, Any] = {"provider": MARKET, "search_params": kind, "expected_perf": 100.0}
    return WorkerGroup(id=GroupId(group_id), template=template, **(usual | fields))
