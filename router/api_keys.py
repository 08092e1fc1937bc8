"""Who asks? API keys by their SHA-256; a key itself is stored nowhere.

Three kinds: the first admin key, whose hash is a setting; keys made by the admin API (KV corral_keys); and each endpoint's
own key, which Vast's clients read from the endpoint and use for /route/. That one is derived from a secret of this router,
so it can be shown at any time without being kept, and is good for its endpoint's /route/ only.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

import msgspec

from runtime.errors import SettingsError
from schemas import ticket
from schemas.ids import EndpointId
from schemas.records import ApiKeyRecord, EndpointRecord

from .keys_dir import KeysDir

ENDPOINT_KEYS_FILE = "endpoint_keys.secret"
ADMIN = "admin"
CLIENT = "client"
ROLES = (ADMIN, CLIENT)
MAX_KEY_CHARS = 256


class Principal(msgspec.Struct, frozen=True):
    """Who a key speaks for."""

    key_id: str  #: not secret; stands in tickets and logs
    role: str
    endpoints: frozenset[EndpointId] | None = None  #: None: all
    expires_at: float | None = None  #: unix s
    digest: bytes = b""
    name: str = ""  #: as people called the key; may be empty

    @property
    def is_admin(self) -> bool:
        return self.role == ADMIN

    def may_route(self, endpoint_id: EndpointId) -> bool:
        return self.endpoints is None or endpoint_id in self.endpoints


class KeyRing:
    """All keys this router honours. Raises SettingsError when the admin key's hash is no SHA-256 in hex."""

    def __init__(self, directory: KeysDir, admin_key_sha256: str = "") -> None:
        self._secret = directory.read_or_make(ENDPOINT_KEYS_FILE, lambda: secrets.token_bytes(32))
        self._by_digest: dict[bytes, Principal] = {}
        self._stored: dict[str, bytes] = {}
        self._endpoints: dict[EndpointId, bytes] = {}
        if admin_key_sha256:
            try:
                digest = bytes.fromhex(admin_key_sha256)
            except ValueError:
                digest = b""
            if len(digest) != 32:
                raise SettingsError("ROUTER_ADMIN_KEY_SHA256 is not a SHA-256 in hex (64 digits)", "printf %s KEY | sha256sum")
            self._by_digest[digest] = Principal("admin", ADMIN, digest=digest, name="admin")

    def who(self, key: str | None, now: float) -> Principal | None:
        """None for an unknown or expired key; `now` unix s. Takes as long for a wrong key as for a right one."""
        if not key or len(key) > MAX_KEY_CHARS:
            return None
        digest = hashlib.sha256(key.encode()).digest()
        # A table of hashes tells an attacker nothing by its timing: he cannot choose the hash of his guess.
        principal = self._by_digest.get(digest)
        if principal is None or not hmac.compare_digest(principal.digest, digest):
            return None
        if principal.expires_at is not None and principal.expires_at <= now:
            return None
        return principal

    def stored(self, key_sha256: str, record: ApiKeyRecord) -> None:
        """KV has this key."""
        digest = bytes.fromhex(key_sha256)
        self._stored[key_sha256] = digest
        endpoints = frozenset(record.endpoints) if record.endpoints else None
        self._by_digest[digest] = Principal(record.id, record.role, endpoints, record.expires_at, digest, record.name)

    def revoked(self, key_sha256: str) -> None:
        """KV has it no more."""
        digest = self._stored.pop(key_sha256, None)
        if digest is not None:
            self._by_digest.pop(digest, None)

    def endpoint(self, record: EndpointRecord) -> None:
        """An endpoint was created, changed, or its key rotated."""
        self.endpoint_gone(record.id)
        key = self.endpoint_key(record)
        digest = hashlib.sha256(key.encode()).digest()
        self._endpoints[record.id] = digest
        self._by_digest[digest] = Principal(f"e{record.id}", CLIENT, frozenset({record.id}), None, digest)

    def endpoint_gone(self, endpoint_id: EndpointId) -> None:
        digest = self._endpoints.pop(endpoint_id, None)
        if digest is not None:
            self._by_digest.pop(digest, None)

    def endpoint_key(self, record: EndpointRecord) -> str:
        """The endpoint's own API key; raise `key_version` to change it."""
        message = f"{record.id}.{record.key_version}".encode()
        return "ck_" + ticket.b64u(hmac.digest(self._secret, message, "sha256")).decode()


def new_key() -> str:
    """A fresh API key, to be shown once."""
    return "corral_" + secrets.token_urlsafe(32)


def sha256_hex(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
