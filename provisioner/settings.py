"""PROVISIONER_*: read once at the start."""

from __future__ import annotations

import msgspec

from runtime.health import HealthSettings
from runtime.nats_bus import NatsSettings


class ProvisionerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the provisioner must be told. The bus is in CORRAL_NATS_*."""

    nats: NatsSettings = NatsSettings()
    health: HealthSettings = HealthSettings()
    log_level: str = "info"
    name: str = "provisioner"  #: on a bus without credentials; else the credentials name it
    state_dir: str = ".corral/provisioner"  #: local workers and what is known of them
    providers: tuple[str, ...] = ("process", "external")
    control_url: str = "http://127.0.0.1:8080"  #: under which workers reach the router
    worker_nats_urls: tuple[str, ...] = ("nats://127.0.0.1:4222",)  #: under which workers reach the bus
    worker_signing_seed_file: str = ""  #: signs workers' credentials; "": the bus asks for none
    nats_account: str = ""  #: public key of the account that workers belong to, or the path of a file that holds it
    worker_credentials_ttl_s: float = 86400.0  #: of local workers; renewed at half of it
    reconcile_every_s: float = 10.0
    orphan_grace_s: float = 15.0  #: a machine nobody knows must be seen for this long before it is removed
    stop_workers_on_exit: bool = False  #: true: SIGTERM stops the local workers to cold; false: they go on

    process_host: str = "127.0.0.1"  #: under which clients reach local workers
    process_ports: str = "20000-29999"
    process_max_workers: int = 16  #: that run at once on this machine
    process_log_limit_bytes: int = 8 * 1024 * 1024  #: of each worker's log; as much again for its older part
    process_pass_env: tuple[str, ...] = ()  #: more names that local workers inherit from the provisioner

    def port_span(self) -> tuple[int, int]:
        """(first, last). Raises ValueError."""
        first, _, last = self.process_ports.partition("-")
        if not (first.isdigit() and last.isdigit() and 1024 <= int(first) < int(last) <= 65535):
            raise ValueError(f"{self.process_ports!r} is not FIRST-LAST with 1024 <= FIRST < LAST <= 65535")
        return int(first), int(last)
