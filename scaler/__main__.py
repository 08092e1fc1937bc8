"""python -m scaler: one scaler, until SIGTERM. Several may run: one leads, the others stand by."""

from __future__ import annotations

import os
import secrets
import time

import msgspec
from prometheus_client import CollectorRegistry

from runtime import logs
from runtime.health import Health
from runtime.nats_bus import connect
from runtime.serve import run, serve
from runtime.settings import load

from .clock import since_boot
from .metrics import Metrics
from .service import Scaler
from .settings import ScalerSettings


async def main() -> None:
    """Raises CorralError."""
    mine = load(ScalerSettings, os.environ, "SCALER")
    logs.setup("scaler", mine.log_level)
    registry = CollectorRegistry()
    nats = msgspec.structs.replace(mine.nats, name=mine.name or mine.nats.name)
    async with connect(nats) as bus:
        scaler = Scaler(
            bus=bus,
            settings=mine,
            owner=f"{bus.name}-{secrets.token_hex(4)}",
            installation=secrets.token_hex(8),
            now=time.time,
            monotonic=since_boot,
            metrics=Metrics(registry),
        )
        await serve(scaler, Health(mine.health, registry, {"nats": scaler.trouble}))


if __name__ == "__main__":
    logs.setup("scaler")  # for what goes wrong before the settings are known
    run(main)
