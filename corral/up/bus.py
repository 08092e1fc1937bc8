"""The bus that the rooms will meet on: our own server, or one that exists."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from corral.datadir import DataDir
from corral.errors import StartError

from .house import Bus

#: The line in the log of the embedded server's keeper that says: the server serves, and its streams exist.
READY_EVENT = "embedded_nats_ready"
_CREDS = ("router", "scaler", "provisioner", "migrate")


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """What that line holds."""

    url: str


def embedded(data: DataDir, line: Mapping[str, Any]) -> Bus:
    """The server that `corral up` started. Raises StartError when its keeper wrote nonsense."""
    try:
        said = msgspec.convert(line, Ready)
        account = (data.nats / "keys" / "cp.public").read_text().strip()
    except (OSError, msgspec.ValidationError) as error:
        raise StartError(f"the embedded NATS server did not say where it is: {error}", f"see {data.logs / 'nats.log'}") from error
    return Bus(url=said.url, creds=data.creds, worker_seed=data.nats / "keys" / "roles" / "worker.seed", account=account)


def existing(url: str, creds: Path | None) -> Bus:
    """A server, or several with commas between them, that somebody else runs. Raises StartError that names the file that is
    missing.
    """
    for one in url.split(","):
        parts = urlsplit(one.strip())
        if parts.scheme not in {"nats", "tls", "ws", "wss"} or not parts.hostname:
            raise StartError(f"not an address of a NATS server: {one!r}", "it looks like nats://127.0.0.1:4222")
    if creds is None:
        raise StartError(
            "--nats needs --creds", f"a folder with {', '.join(f'{name}.creds' for name in _CREDS)}, worker.seed and cp.public"
        )
    for name in (*(f"{role}.creds" for role in _CREDS), "worker.seed", "cp.public"):
        if not (creds / name).is_file():
            raise StartError(f"{creds / name} is missing", "`corral up` without --nats shows such a set in its data directory")
    return Bus(url=url, creds=creds, worker_seed=creds / "worker.seed", account=(creds / "cp.public").read_text().strip())
