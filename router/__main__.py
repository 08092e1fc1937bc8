"""python -m router: one router, until SIGTERM."""

from __future__ import annotations

import os
import time

import msgspec

from runtime import logs, serve, settings
from runtime.nats_bus import connect

from .listener import Listener
from .service import Router
from .settings import RouterSettings


async def main() -> None:
    room = settings.load(RouterSettings, os.environ, "ROUTER")
    nats = msgspec.structs.replace(room.nats, name=room.name or room.nats.name)
    async with connect(nats) as bus:
        router = Router(bus=bus, settings=room, now=time.time, monotonic=time.monotonic)
        await serve.serve(Listener(router), router)


if __name__ == "__main__":
    logs.setup("router")
    serve.run(main)
