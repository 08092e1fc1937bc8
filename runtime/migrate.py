"""python -m runtime.migrate: make every stream, bucket and consumer, or bring them up to date. Safe to repeat.

Reads CORRAL_NATS_URLS, CORRAL_NATS_CREDS (role migrate) and MIGRATE_REPLICAS (1 on one server, 3 in a cluster).
"""

from __future__ import annotations

import os

import msgspec
import structlog

from . import logs, topology
from .nats_bus import NatsSettings, open_client
from .serve import run
from .settings import load

log = structlog.get_logger()


class MigrateSettings(msgspec.Struct, frozen=True, kw_only=True):
    nats: NatsSettings = NatsSettings()
    replicas: int = 1
    log_level: str = "info"


async def migrate(settings: MigrateSettings) -> None:
    """Raises BusUnavailable, BusRefused, SettingsError."""
    async with open_client(settings.nats) as client:
        await topology.ensure(client, replicas=settings.replicas)
    log.info("topology_ready", replicas=settings.replicas)


async def main() -> None:
    settings = load(MigrateSettings, os.environ, "MIGRATE")
    logs.setup("migrate", settings.log_level)
    await migrate(settings)


if __name__ == "__main__":
    run(main)
