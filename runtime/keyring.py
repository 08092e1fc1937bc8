"""All keys of one installation, as seed files under one directory, and what is minted with them.

    <dir>/operator.seed  sys.seed  cp.seed  evt.seed     the trust itself: keep these off the machines that serve
    <dir>/roles/<role>.seed                              one scoped signing key per role
    <dir>/cp.public                                      CP's public key: all a provisioner needs beside worker.seed

Every file is 0600, the directory 0700. `auth.conf` and creds are derived and can be made again at any time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from schemas import subjects
from schemas.ids import EndpointId, WorkerId, is_token

from . import js_names, jwt, permissions
from .errors import SettingsError
from .jwt import Key
from .permissions import Role

_ACCOUNT_NAMES = ("sys", "cp", "evt")
_OPERATOR_NAME = "corral"


class Keyring:
    def __init__(self, operator: Key, accounts: Mapping[str, Key], roles: Mapping[Role, Key], directory: Path) -> None:
        self.operator = operator
        self.accounts = dict(accounts)
        self.roles = dict(roles)
        self.directory = directory

    @classmethod
    def create(cls, directory: Path) -> Keyring:
        """New keys, written at once. Raises SettingsError when there are keys already: losing them loses the installation."""
        if (directory / "operator.seed").exists():
            raise SettingsError(f"{directory} already holds keys", "use Keyring.load, or another directory")
        ring = cls(
            Key.new("operator"),
            {name: Key.new("account") for name in _ACCOUNT_NAMES},
            {role: Key.new("account") for role in Role},
            directory,
        )
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, key in ring.accounts.items():
            write_secret(directory / f"{name}.seed", key.seed + "\n")
        for role, key in ring.roles.items():
            write_secret(role_seed_path(directory, role), key.seed + "\n")
        write_secret(directory / "cp.public", ring.accounts["cp"].public + "\n")
        write_secret(directory / "operator.seed", ring.operator.seed + "\n")  # last: its presence says the rest is complete
        return ring

    @classmethod
    def load(cls, directory: Path) -> Keyring:
        """Raises SettingsError that names the file that is missing or unreadable."""
        return cls(
            _read_key(directory / "operator.seed"),
            {name: _read_key(directory / f"{name}.seed") for name in _ACCOUNT_NAMES},
            {role: _read_key(role_seed_path(directory, role)) for role in Role},
            directory,
        )

    @classmethod
    def open(cls, directory: Path) -> Keyring:
        """Load, or create on the first start."""
        return cls.load(directory) if (directory / "operator.seed").exists() else cls.create(directory)

    def auth_conf(self, *, issued_at: float | None = None) -> str:
        """The server's side: `include` this in nats.conf. Holds no secret, yet tells who may do what."""
        at = time.time() if issued_at is None else issued_at
        public = {name: key.public for name, key in self.accounts.items()}
        cp_scopes, evt_scopes = permissions.cp_scopes(), permissions.evt_scopes()
        accounts = {
            "sys": jwt.account_jwt(self.operator, public["sys"], "SYS", issued_at=at, jetstream=False),
            "cp": jwt.account_jwt(
                self.operator,
                public["cp"],
                "CP",
                issued_at=at,
                scopes={self.roles[role].public: scope for role, scope in cp_scopes.items()},
                imports=(
                    jwt.Import(account=public["evt"], subject=subjects.EVENTS),
                    jwt.Import(account=public["evt"], subject=f"{js_names.API}.>", local_subject=f"{js_names.EVENTS_API}.>"),
                ),
            ),
            "evt": jwt.account_jwt(
                self.operator,
                public["evt"],
                "EVT",
                issued_at=at,
                scopes={self.roles[role].public: scope for role, scope in evt_scopes.items()},
                exports=permissions.evt_exports(),
            ),
        }
        preload = "\n".join(f"  {public[name]}: {token}" for name, token in accounts.items())
        operator = jwt.operator_jwt(self.operator, _OPERATOR_NAME, public["sys"], issued_at=at)
        return f"operator: {operator}\nsystem_account: {public['sys']}\nresolver: MEMORY\nresolver_preload: {{\n{preload}\n}}\n"

    def mint_creds(
        self,
        role: Role,
        name: str,
        *,
        tags: Sequence[str] = (),
        expires_at: float | None = None,
        issued_at: float | None = None,
    ) -> str:
        """The text of a .creds file for a new user. A role bound to a name needs that name in its connection too.

        Raises ValueError when the name is not a token.
        """
        if not is_token(name):
            raise ValueError(f"not a name for a connection: {name!r}; use letters, digits, - and _")
        user = Key.new("user")
        account = self.accounts["evt" if role is Role.INTEGRATOR else "cp"].public
        token = jwt.user_jwt(
            self.roles[role],
            account,
            user.public,
            name,
            issued_at=time.time() if issued_at is None else issued_at,
            tags=tags,
            expires_at=expires_at,
        )
        return jwt.creds_file(token, user.seed)

    def write_creds(self, role: Role, name: str, path: Path, *, expires_at: float | None = None) -> Path:
        """mint_creds into a 0600 file."""
        write_secret(path, self.mint_creds(role, name, expires_at=expires_at))
        return path

    def worker_minter(self) -> WorkerMinter:
        return WorkerMinter(self.roles[Role.WORKER].seed, self.accounts["cp"].public)


class WorkerMinter:
    """Makes workers' credentials from the worker role's signing key alone: it can make nothing else."""

    def __init__(self, signing_seed: str, account_public_key: str) -> None:
        """Raises ValueError when the seed is no nkey seed."""
        self._signing = Key(signing_seed)
        self._account = account_public_key.strip()

    @classmethod
    def from_directory(cls, directory: Path) -> WorkerMinter:
        """From roles/worker.seed and cp.public of a keyring's directory, of which no other file need be there.

        Raises SettingsError.
        """
        signing = _read_key(role_seed_path(directory, Role.WORKER))
        return cls(signing.seed, _read_text(directory / "cp.public"))

    def mint(
        self, worker_id: WorkerId, endpoint_id: EndpointId, ttl_s: float, *, issued_at: float | None = None
    ) -> tuple[str, str]:
        """(jwt, nkey seed) of a worker, good for its own subjects for `ttl_s` seconds."""
        at = time.time() if issued_at is None else issued_at
        user = Key.new("user")
        token = jwt.user_jwt(
            self._signing,
            self._account,
            user.public,
            worker_id,
            issued_at=at,
            tags=(permissions.worker_tag(endpoint_id),),
            expires_at=at + ttl_s,
        )
        return token, user.seed


def role_seed_path(directory: Path, role: Role) -> Path:
    return directory / "roles" / f"{role}.seed"


def write_secret(path: Path, text: str) -> None:
    """Write a file that only we may read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _read_text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}", "restore it from a backup of the keys directory") from error


def _read_key(path: Path) -> Key:
    try:
        return Key(_read_text(path))
    except ValueError as error:
        raise SettingsError(f"{path} holds no nkey seed", "restore it from a backup of the keys directory") from error
