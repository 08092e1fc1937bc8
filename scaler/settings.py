"""SCALER_*: read once at the start."""

from __future__ import annotations

from typing import Literal

import msgspec

from runtime.health import HealthSettings
from runtime.nats_bus import NatsSettings
from schemas.ticket import DEFAULT_TTL_S

from .types import Policy


class ScalerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the scaler must be told. How many workers an endpoint has is set per endpoint, not here."""

    nats: NatsSettings = NatsSettings()
    health: HealthSettings = HealthSettings()
    log_level: str = "info"  #: debug, info, warning or error
    name: str = ""  #: unique among the scalers; empty: the name in its NATS credentials
    tick_s: float = 2.0  #: how often each endpoint is looked at; whoever begins to wait is looked at at once
    leases: int = 1  #: how many scalers share the endpoints, each leading a part
    lease: int = 0  #: which part this one would lead: 0 .. leases - 1
    engine: Literal["ensemble", "reactive"] = "ensemble"  #: ensemble: learns; reactive: load over capacity, nothing else
    mode: Literal["active", "advisory"] = "active"  #: advisory: decisions are recorded, nothing is done
    ticket_ttl_s: float = DEFAULT_TTL_S  #: as the routers sign them; a drain waits it out
    clock_skew_s: float = 5.0  #: that clocks of routers and workers may differ by
    drain_deadline_s: float = 900.0  #: how long a draining worker's requests may go on before they are cut
    command_ttl_s: float = 600.0  #: a command that nobody carried out by then is dead
    proven_after_s: float = 60.0  #: ready this long: the start was a success
    reboots_per_worker: int = 2  #: within an hour, of a worker that fails while it serves; then it is replaced. 0: never
    reboots_per_group: int = 6  #: within an hour, over all workers of a group
    horizon_s: float = 3600.0  #: a new worker is expected to be of use this long, when the cost of its work is reckoned
    learn_usd: float = 1.0  #: what starting a group that nobody has measured may cost

    def policy(self, installation: str) -> Policy:
        """The constants of the pure core."""
        return Policy(
            name=self.engine,
            mode=self.mode,
            installation=installation,
            tick_s=self.tick_s,
            look_again_s=self.tick_s,
            ticket_ttl_s=self.ticket_ttl_s,
            clock_skew_s=self.clock_skew_s,
            drain_deadline_s=self.drain_deadline_s,
            command_ttl_s=self.command_ttl_s,
            proven_after_s=self.proven_after_s,
            reboots_per_worker=self.reboots_per_worker,
            reboots_per_group=self.reboots_per_group,
            horizon_s=self.horizon_s,
            learn_usd=self.learn_usd,
        )
