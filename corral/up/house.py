"""Which processes make a control plane, and what each is told. Pure: paths and ports in, commands and environments out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from corral import service
from corral.datadir import DataDir

from .child import Spec

BUS, ROUTER, SCALER, PROVISIONER = "nats", "router", "scaler", "provisioner"
#: Started in this order once the bus is there; stopped in this order too: first nobody is sent to a worker any more, then nobody
#: decides, then workers go cold, and the bus goes last, so that all of that is written down.
ROOMS = (ROUTER, SCALER, PROVISIONER)
#: Not for our children: they are about us, and the key is a secret.
_OURS = ("CORRAL_API_KEY", "CORRAL_URL", "CORRAL_DATA_DIR")
#: Workers finish what they do before they stop.
_STOP_S = {BUS: 15.0, ROUTER: 15.0, SCALER: 10.0, PROVISIONER: 60.0}


class Bus(msgspec.Struct, frozen=True, kw_only=True):
    """Where NATS is, and the files with which the rooms log in."""

    url: str
    creds: Path  #: router.creds, scaler.creds, provisioner.creds
    worker_seed: Path  #: the signing key with which workers' credentials are made
    account: str  #: public key of the account they belong to


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is decided before the first process starts."""

    data: DataDir
    host: str
    port: int
    installation: str
    admin_key_sha256: str
    log_level: str = "info"

    @property
    def url(self) -> str:
        """For clients on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, f"[{self.host}]" if ":" in self.host else self.host)  # noqa: S104
        return f"http://{host}:{self.port}"


def bus_spec(plan: Plan, environ: Mapping[str, str], parent_pid: int, *, nats_port: int | None) -> Spec:
    """The embedded nats-server, its keys and its streams."""
    ports = ("--port", str(nats_port)) if nats_port else ()
    return Spec(
        name=BUS,
        argv=_room(parent_pid, "runtime.keeper", str(plan.data.nats), "--creds", str(plan.data.creds), *ports),
        env=_base(plan, environ),
        stop_timeout_s=_STOP_S[BUS],
        chatty=True,
    )


def migrate_spec(plan: Plan, bus: Bus, environ: Mapping[str, str], parent_pid: int) -> Spec:
    """Creates or updates streams and buckets on a server that exists; ends when that is done."""
    env = _base(plan, environ) | {"CORRAL_NATS_URLS": bus.url, "CORRAL_NATS_CREDS": str(bus.creds / "migrate.creds")}
    return Spec(name="migrate", argv=_room(parent_pid, "runtime.migrate"), env=env)


def room_spec(room: str, plan: Plan, bus: Bus, environ: Mapping[str, str], parent_pid: int) -> Spec:
    """One service and its settings."""
    env = _base(plan, environ) | {
        "CORRAL_NATS_URLS": bus.url,
        "CORRAL_NATS_CREDS": str(bus.creds / f"{room}.creds"),
        **_SETTINGS[room](plan, bus),
    }
    # After a kill -9 the provisioner before us may still be stopping its workers, and holds its directory until it has.
    patience = 10 if room == PROVISIONER else 3
    return Spec(name=room, argv=_room(parent_pid, room), env=env, stop_timeout_s=_STOP_S[room], patience=patience)


def _router(plan: Plan, _bus: Bus) -> dict[str, str]:
    return {
        "ROUTER_NAME": ROUTER,
        "ROUTER_HOST": plan.host,
        "ROUTER_PORT": str(plan.port),
        "ROUTER_KEYS_DIR": str(plan.data.router_keys),
        "ROUTER_ADMIN_KEY_SHA256": plan.admin_key_sha256,
    }


def _scaler(_plan: Plan, _bus: Bus) -> dict[str, str]:
    return {"SCALER_NAME": SCALER}


def _provisioner(plan: Plan, bus: Bus) -> dict[str, str]:
    return {
        "PROVISIONER_NAME": PROVISIONER,
        "PROVISIONER_STATE_DIR": str(plan.data.provisioner),
        "PROVISIONER_CONTROL_URL": plan.url,
        "PROVISIONER_WORKER_NATS_URLS": bus.url,
        "PROVISIONER_WORKER_SIGNING_SEED_FILE": str(bus.worker_seed),
        "PROVISIONER_NATS_ACCOUNT": bus.account,
        "PROVISIONER_STOP_WORKERS_ON_EXIT": "true",
    }


_SETTINGS = {ROUTER: _router, SCALER: _scaler, PROVISIONER: _provisioner}


def _room(parent_pid: int, room: str, *args: str) -> tuple[str, ...]:
    # -P: the working directory is not on the path of a process that runs with our keys.
    return (sys.executable, "-P", str(Path(service.__file__)), str(parent_pid), room, *args)


def _base(plan: Plan, environ: Mapping[str, str]) -> dict[str, str]:
    env = {name: value for name, value in environ.items() if name not in _OURS}
    # A template that says `python` means this Python, with what is installed beside it.
    env["PATH"] = f"{Path(sys.executable).parent}:{environ.get('PATH', '/usr/bin:/bin')}"
    env["PYTHONUNBUFFERED"] = "1"
    env["CORRAL_INSTALLATION"] = plan.installation
    env["CORRAL_LOG_LEVEL"] = plan.log_level
    return env
