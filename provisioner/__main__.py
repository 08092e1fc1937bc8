"""python -m provisioner [--stop-workers]

Without arguments: work commands until SIGTERM. Workers go on when the provisioner ends, unless
PROVISIONER_STOP_WORKERS_ON_EXIT is true. With --stop-workers: stop all local workers to cold, write it down, and end.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import time
from functools import partial
from pathlib import Path

import msgspec
import structlog
from prometheus_client import CollectorRegistry

from runtime import logs
from runtime.errors import BusError, SettingsError
from runtime.health import Health
from runtime.keyring import WorkerMinter
from runtime.nats_bus import NatsSettings, connect
from runtime.serve import run, serve
from runtime.settings import load

from .bundles import Bundles
from .metrics import Metrics
from .provider import Provider
from .providers.external import ExternalProvider
from .providers.process import Folder, ProcessProvider, ProcessSettings
from .reconcile import Rhythm
from .service import Provisioner
from .settings import ProvisionerSettings
from .wiring import provisioner

log = structlog.get_logger()

PROVIDERS = ("process", "external")


async def main(*, only_stop_workers: bool) -> None:
    """Raises CorralError."""
    mine = load(ProvisionerSettings, os.environ, "PROVISIONER")
    logs.setup("provisioner", mine.log_level)
    folder = Folder(Path(mine.state_dir))
    bundles = Bundles(
        minter=_minter(mine),
        nats_urls=mine.worker_nats_urls,
        control_url=mine.control_url,
        ttl_s=mine.worker_credentials_ttl_s,
        now=time.time,
    )
    local = ProcessProvider(folder=folder, settings=_process_settings(mine), bundles=bundles, now=time.time, environ=os.environ)
    _check_names(mine.providers)
    registry = CollectorRegistry()
    with folder.locked():
        async with connect(_nats_settings(mine)) as bus:
            providers: dict[str, Provider] = {"process": local, "external": ExternalProvider(bus)}
            service = provisioner(
                bus=bus,
                streams=bus,
                providers={name: providers[name] for name in mine.providers},
                bundles=bundles,
                now=time.time,
                rng=random.Random(),
                metrics=Metrics(registry),
                rhythm=Rhythm(every_s=mine.reconcile_every_s, orphan_grace_s=mine.orphan_grace_s),
            )
            if not only_stop_workers:
                checks = {"nats": lambda: "" if bus.connected else "not connected"}
                await serve(service, Health(mine.health, registry, checks))
            if only_stop_workers or mine.stop_workers_on_exit:
                await _stop_workers(local, service)


async def _stop_workers(local: ProcessProvider, service: Provisioner) -> None:
    """To cold. What cannot be written down now is written down at the next start, which compares records with processes."""
    stopped = await local.stop_all()
    log.info("local_workers_stopped", workers=[machine.worker_id for machine in stopped])
    try:
        await service.reconcile_once()
    except BusError as error:
        log.warning("stop_not_recorded", error=error.message)


def _nats_settings(mine: ProvisionerSettings) -> NatsSettings:
    return mine.nats if mine.nats.name or mine.nats.creds else msgspec.structs.replace(mine.nats, name=mine.name)


def _check_names(names: tuple[str, ...]) -> None:
    unknown = [name for name in names if name not in PROVIDERS]
    if unknown:
        raise SettingsError(f"PROVISIONER_PROVIDERS: no provider {', '.join(unknown)}", f"choose from {', '.join(PROVIDERS)}")


def _process_settings(mine: ProvisionerSettings) -> ProcessSettings:
    try:
        span = mine.port_span()
    except ValueError as error:
        raise SettingsError(f"PROVISIONER_PROCESS_PORTS: {error}", "for example 20000-29999") from error
    return ProcessSettings(
        control_url=mine.control_url,
        public_host=mine.process_host,
        host=platform.node(),
        port_span=span,
        max_workers=mine.process_max_workers,
        log_limit_bytes=mine.process_log_limit_bytes,
        pass_environment=mine.process_pass_env,
    )


def _minter(mine: ProvisionerSettings) -> WorkerMinter | None:
    if not mine.worker_signing_seed_file:
        return None
    try:
        account = Path(mine.nats_account).read_text() if os.sep in mine.nats_account else mine.nats_account
        return WorkerMinter(Path(mine.worker_signing_seed_file).read_text(), account)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"PROVISIONER_WORKER_SIGNING_SEED_FILE or PROVISIONER_NATS_ACCOUNT: {error}",
            "they are roles/worker.seed and cp.public in the directory of NATS keys",
        ) from error


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m provisioner", description="Starts, stops and destroys workers.")
    parser.add_argument("--stop-workers", action="store_true", help="stop all local workers to cold and end")
    run(partial(main, only_stop_workers=parser.parse_args().stop_workers))
