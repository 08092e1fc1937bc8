"""python -m runtime.keeper DIRECTORY --creds FOLDER: the embedded nats-server as a process of its own.

Makes keys on the first start, credentials of every role of the control plane and the streams at each start, says
`embedded_nats_ready` in its log, and keeps the server alive until SIGTERM. A new server process is told as `embedded_nats_serving`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import msgspec
import structlog

from . import logs, migrate
from .embedded import EmbeddedServer
from .nats_bus import NatsSettings
from .permissions import Role
from .serve import run, serve
from .settings import load

log = structlog.get_logger()

#: Each is also the name of its one user.
ROLES = (Role.ROUTER, Role.SCALER, Role.PROVISIONER, Role.MIGRATE, Role.OPERATOR)


class KeeperSettings(msgspec.Struct, frozen=True, kw_only=True):
    log_level: str = "info"


async def keep(directory: Path, creds: Path, port: int | None) -> None:
    """Until a signal. Raises ServerError, BusUnavailable, BusRefused, SettingsError."""
    server = EmbeddedServer(directory, port=port)
    try:
        await server.start()
        for role in ROLES:
            server.keyring.write_creds(role, str(role), creds / f"{role}.creds")
        nats = NatsSettings(urls=(server.url,), creds=str(creds / f"{Role.MIGRATE}.creds"))
        await migrate.migrate(migrate.MigrateSettings(nats=nats))
        log.info("embedded_nats_ready", url=server.url, monitoring_url=server.monitoring_url, server_pid=server.pid)
        await serve(server)
    finally:
        await server.stop()
        server.close()


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m runtime.keeper", description="The embedded nats-server.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--creds", type=Path, required=True, help="folder for the credentials that are made")
    parser.add_argument("--port", type=int, default=None, help="port for clients; default: the one of last time, or any free one")
    options = parser.parse_args()
    settings = load(KeeperSettings, os.environ, "KEEPER")
    logs.setup("nats", settings.log_level)
    await keep(options.directory, options.creds, options.port)


if __name__ == "__main__":
    run(main)
