"""Settings of the router: ROUTER_HOST, ROUTER_PORT and so on. How to reach NATS is runtime's to know."""

from __future__ import annotations

import msgspec

from runtime.nats_bus import NatsSettings
from schemas.ticket import DEFAULT_TTL_S


class RouterSettings(msgspec.Struct, frozen=True, kw_only=True):
    host: str = "127.0.0.1"
    port: int = 8080  #: 0: any free one
    keys_dir: str = "~/.local/state/corral/keys"
    name: str = ""  #: unique among the routers; empty: the name in its NATS credentials
    nats: NatsSettings = NatsSettings()
    issuer: str = "corral"  #: `iss` of the tickets; workers compare it
    ticket_ttl_s: float = DEFAULT_TTL_S
    ticket_key_max_age_s: float = 30 * 86400.0  #: after this a new ticket key is published; 0: never
    worker_ca: str = ""  #: PEM file of the root that workers' TLS certificates chain to, for Vast's clients; empty: there is none
    max_held: int = 10_000  #: listeners per endpoint; who comes later is told to ask again
    admin_key_sha256: str = ""  #: SHA-256 in hex of the first admin key
