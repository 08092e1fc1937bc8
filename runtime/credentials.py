"""Who we are to the server: a .creds file, read again at every connect so that a renewed one is picked up."""

from __future__ import annotations

import base64
from pathlib import Path

from .errors import SettingsError
from .jwt import Claims, Key, claims

_JWT_MARK = "BEGIN NATS USER JWT"
_SEED_MARK = "BEGIN USER NKEY SEED"


class Credentials:
    """The answers that a client needs while it connects. Raises SettingsError when the file is missing or is something else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._jwt, self._key, self.claims = _read(path)

    @property
    def name(self) -> str:
        """The user's name, to which permissions are bound."""
        return self.claims.name

    def reload(self) -> bool:
        """Read the file again; True when it holds another JWT. An unreadable file raises SettingsError and changes nothing."""
        before = self._jwt
        self._jwt, self._key, self.claims = _read(self.path)
        return self._jwt != before

    def jwt(self) -> bytes:
        return self._jwt.encode()

    def sign(self, nonce: str) -> bytes:
        return base64.b64encode(self._key.sign(nonce.encode()))

    def refresh_at(self, life: float) -> float | None:
        """Unix time at which this share of the JWT's life is over; None when it lives for ever."""
        if self.claims.exp is None:
            return None
        return self.claims.iat + (self.claims.exp - self.claims.iat) * life


def _read(path: Path) -> tuple[str, Key, Claims]:
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise SettingsError(
            f"cannot read credentials {path}: {error.strerror}", "set CORRAL_NATS_CREDS to a .creds file"
        ) from error
    jwt, seed = _after(lines, _JWT_MARK), _after(lines, _SEED_MARK)
    try:
        return jwt, Key(seed), claims(jwt)
    except ValueError as error:
        raise SettingsError(f"{path} is no .creds file: {error}", "mint a new one") from error


def _after(lines: list[str], mark: str) -> str:
    for number, line in enumerate(lines[:-1]):
        if mark in line:
            return lines[number + 1].strip()
    return ""
