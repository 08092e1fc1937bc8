"""`corral up` and `corral service`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from corral import service
from corral.datadir import locate
from corral.errors import ConfigError

from .command import Session, command


def add(app: typer.Typer) -> None:
    command(app, "up", local=True)(up)
    app.command("service", hidden=True, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(run_service)


async def up(
    session: Session,
    host: Annotated[str, typer.Option(help="Address the router listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port the router listens on; 0: any free one.")] = 8080,
    nats: Annotated[str, typer.Option(help="Use this NATS server instead of an own one: nats://HOST:PORT.")] = "",
    creds: Annotated[Path | None, typer.Option(help="With --nats: the folder with the credentials of the roles.")] = None,
    nats_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the own NATS server; 0: as last time.")] = 0,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run the whole control plane on this machine until Ctrl-C."""
    from corral.up import ports
    from corral.up.progress import Progress
    from corral.up.supervisor import Options, Supervisor

    if log_level not in {"debug", "info", "warning", "error"}:
        raise ConfigError(f"unknown log level {log_level!r}", "it is debug, info, warning or error")
    progress = Progress(as_json=session.show.as_json)
    if not ports.is_loopback(host):
        progress.loud(f"{host} can be reached from other machines; put TLS in front of it", host=host)
    options = Options(
        data=locate(session.data_dir),
        host=host,
        port=port,
        nats_port=nats_port,
        nats_url=nats,
        creds=creds,
        log_level=log_level,
    )
    await Supervisor(options, progress, os.environ).run()


#: What can be started alone: the services, and the steps before them.
SERVICES = ("router", "scaler", "provisioner", "runtime.keeper", "runtime.init", "runtime.migrate")


def run_service(context: typer.Context, room: Annotated[str, typer.Argument(help=f"One of {', '.join(SERVICES)}.")]) -> None:
    """Run one room of the control plane in the foreground, as containers and init systems do."""
    if room not in SERVICES:
        raise typer.BadParameter(f"{room!r} is no service; it is one of {', '.join(SERVICES)}")
    argv = [sys.executable, "-P", str(Path(service.__file__)), "0", room, *context.args]
    sys.stdout.flush()
    os.execv(argv[0], argv)  # noqa: S606 - signals must reach the room itself
