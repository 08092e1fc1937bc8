"""python -m runtime.init FOLDER: everything secret that an installation on your own NATS servers needs. Run once; safe to repeat.

    FOLDER/nats/auth.conf            what nats.conf includes; holds no secret
    FOLDER/nats/keys/                the trust itself; move it off the machines that serve
    FOLDER/creds/<role>.creds        one per service, made anew at each run
    FOLDER/creds/worker.seed         with which the provisioner makes workers' credentials
    FOLDER/creds/cp.public           the account those belong to
    FOLDER/admin.key                 the first admin key; FOLDER/creds/admin.sha256 is what the router is told
    FOLDER/installation              tells this installation's workers from another's

`corral up --nats URL --creds FOLDER/creds` uses such a set, and so does compose.yaml.
"""

from __future__ import annotations

import argparse
import hashlib
import secrets
from pathlib import Path

from .keeper import ROLES
from .keyring import Keyring, role_seed_path, write_secret
from .permissions import Role

ADMIN_KEY_PREFIX = "corral-admin-"


def init(folder: Path) -> tuple[Path, ...]:
    """Write the set; what exists and must not change (keys, admin key, installation) is kept. Returns the files.

    Raises SettingsError when keys are there and damaged.
    """
    keys = folder / "nats" / "keys"
    creds = folder / "creds"
    ring = Keyring.open(keys)
    auth = folder / "nats" / "auth.conf"
    write_secret(auth, ring.auth_conf())
    made = [ring.write_creds(role, str(role), creds / f"{role}.creds") for role in ROLES]
    for target, source in (
        (creds / "worker.seed", role_seed_path(keys, Role.WORKER)),
        (creds / "cp.public", keys / "cp.public"),
    ):
        write_secret(target, source.read_text())
        made.append(target)
    admin_key = _kept(folder / "admin.key", ADMIN_KEY_PREFIX + secrets.token_urlsafe(32))
    _kept(folder / "installation", secrets.token_hex(6))
    digest = creds / "admin.sha256"
    write_secret(digest, hashlib.sha256(admin_key.encode()).hexdigest() + "\n")
    return (auth, *made, digest, folder / "admin.key", folder / "installation")


def _kept(path: Path, new: str) -> str:
    if not path.exists():
        write_secret(path, new + "\n")
    return path.read_text().strip()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m runtime.init", description="Credentials for an installation.")
    parser.add_argument("folder", type=Path)
    for path in init(parser.parse_args().folder):
        print(path)


if __name__ == "__main__":
    main()
