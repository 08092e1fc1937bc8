"""What a data directory remembers between starts: the admin key and the installation's name."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from corral.datadir import DataDir
from corral.errors import StartError

ADMIN_PREFIX = "corral-admin-"


def write_private(path: Path, text: str) -> None:
    """Whole or not at all, readable by nobody else."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def admin_key(data: DataDir) -> str:
    """Made on the first start. Raises StartError when the file is empty or not ours to read."""
    return _remembered(data.admin_key, lambda: ADMIN_PREFIX + secrets.token_urlsafe(32))


def installation(data: DataDir) -> str:
    """Tells this installation's workers from another's at one provider."""
    return _remembered(data.installation, lambda: secrets.token_hex(6))


def digest(api_key: str) -> str:
    """What of a key may be known to the router: SHA-256 in hex."""
    return hashlib.sha256(api_key.encode()).hexdigest()


def _remembered(path: Path, make: Callable[[], str]) -> str:
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        text = make()
        write_private(path, text + "\n")
    except OSError as error:
        raise StartError(f"cannot read {path}: {error.strerror}", "it must belong to the user who runs `corral up`") from error
    if not text:
        raise StartError(f"{path} is empty", "remove it, and a new one is made")
    return text
