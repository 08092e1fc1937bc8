"""The data directory of `corral up`: what lies in it, and where it is when nobody says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """run.json: the control plane that runs in this directory now."""

    url: str
    nats_url: str
    pids: dict[str, int]
    ports: dict[str, int]
    started_at: float
    data_dir: str
    admin_key_file: str
    version: str = ""


class DataDir:
    """Paths only; nothing is created here."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run_json = root / "run.json"
        self.lock = root / "lock"
        self.installation = root / "installation"
        self.admin_key = root / "admin.key"
        self.logs = root / "logs"
        self.nats = root / "nats"
        self.creds = root / "creds"
        self.router_keys = root / "router-keys"
        self.provisioner = root / "provisioner"

    def worker_log(self, worker_id: str) -> Path:
        """Where the provisioner keeps what a local worker prints."""
        return self.provisioner / "workers" / worker_id / "worker.log"

    def running(self) -> RunInfo | None:
        """What run.json says; None when there is none, or none that can be read."""
        try:
            return msgspec.json.decode(self.run_json.read_bytes(), type=RunInfo)
        except (OSError, msgspec.DecodeError):
            return None


def locate(given: str | Path | None, environ: Mapping[str, str] = os.environ, cwd: Path | None = None) -> DataDir:
    """Flag, then CORRAL_DATA_DIR, then `.corral` here if it exists, then the user's own data directory."""
    if given or environ.get("CORRAL_DATA_DIR"):
        return DataDir(Path(given or environ["CORRAL_DATA_DIR"]).expanduser().absolute())
    here = (cwd or Path.cwd()) / ".corral"
    if here.is_dir():
        return DataDir(here)
    home = environ.get("XDG_DATA_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".local" / "share")
    return DataDir(Path(home) / "corral")
