"""All cryptography of the router: signing tickets (Ed25519), and Vast's signature over a worker's url (RSA-2048).

Two ticket keys live side by side. A new one is published at once and used only when every worker has had time to fetch it;
the old one stays published until the next rotation, so neither a ticket under way nor a worker that reads late is locked out.
Vast's workers read their RSA key once at start and never again, so that one is kept for good.
"""

from __future__ import annotations

import base64
import functools
import hashlib

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from nacl.bindings import crypto_sign, crypto_sign_seed_keypair
from nacl.utils import random as random_bytes

from runtime.errors import SettingsError
from schemas import ticket
from schemas.ticket import Jwk, Jwks, TicketClaims

from .keys_dir import KeysDir

TICKET_KEYS_FILE = "ticket_keys.json"
VAST_KEY_FILE = "vast_rsa.pem"
#: A published key signs nothing for this long; workers refresh their keys more often than that.
PUBLISH_BEFORE_USE_S = 600.0
MAX_CACHED_URLS = 50_000


class StoredKey(msgspec.Struct, frozen=True):
    seed: str  #: 32 bytes, base64url; a secret
    made_at: float  #: unix s


class StoredKeys(msgspec.Struct, frozen=True):
    """Oldest first; one or two."""

    keys: tuple[StoredKey, ...]


class TicketKey:
    """One Ed25519 key pair. `kid` is its RFC 7638 thumbprint, so equal keys have equal names everywhere."""

    def __init__(self, stored: StoredKey) -> None:
        self.made_at = stored.made_at
        public, self._secret = crypto_sign_seed_keypair(ticket.un_b64u(stored.seed.encode()))
        x = ticket.b64u(public).decode()
        thumbprint = hashlib.sha256(f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'.encode()).digest()
        self.kid = ticket.b64u(thumbprint).decode()
        self.jwk = Jwk(kid=self.kid, x=x)
        self.header = ticket.header_segment(self.kid)

    def sign(self, claims: TicketClaims) -> str:
        signed = ticket.signing_input(self.header, claims)
        return ticket.assemble(signed, crypto_sign(signed, self._secret)[:64])


class TicketSigner:
    """Keys live in the directory; routers that share it sign with the same ones. `now` is unix s."""

    def __init__(self, directory: KeysDir, now: float) -> None:
        self._directory = directory
        stored = directory.read_or_make(TICKET_KEYS_FILE, lambda: _encode_keys((_fresh(now),)))
        self._load(stored, now)

    def _load(self, data: bytes, now: float) -> None:
        self._loaded = data
        self._stored = msgspec.json.decode(data, type=StoredKeys).keys
        self._keys = tuple(TicketKey(stored) for stored in self._stored)
        self.jwks = msgspec.json.encode(Jwks(keys=tuple(key.jwk for key in self._keys)))
        self.use_due(now)

    @property
    def kid(self) -> str:
        """Of the key that signs."""
        return self._active.kid

    def sign(self, claims: TicketClaims) -> str:
        """A compact JWS."""
        return self._active.sign(claims)

    def use_due(self, now: float) -> None:
        """Sign with the newest key that has been published long enough; the first key of all at once."""
        due = [key for key in self._keys if key.made_at + PUBLISH_BEFORE_USE_S <= now]
        self._active = due[-1] if due else self._keys[0]

    def reread(self, now: float) -> None:
        """Another router on the same directory may have rotated."""
        data = self._directory.read(TICKET_KEYS_FILE)
        if data is not None and data != self._loaded:
            self._load(data, now)
        self.use_due(now)

    def rotate(self, now: float) -> str:
        """Publish a new key, drop all but the one in use; returns the new kid. It signs after PUBLISH_BEFORE_USE_S."""
        in_use = self._stored[self._keys.index(self._active)]
        data = _encode_keys((in_use, _fresh(now)))
        self._directory.replace(TICKET_KEYS_FILE, data)
        self._load(data, now)
        return self._keys[-1].kid

    def rotate_if_older(self, max_age_s: float, now: float) -> bool:
        if self._keys[-1].made_at + max_age_s > now:
            return False
        self.rotate(now)
        return True


class VastSigner:
    """Vast's `signature`: it depends on the url alone, so each worker's is made once."""

    def __init__(self, directory: KeysDir) -> None:
        pem = directory.read_or_make(VAST_KEY_FILE, _fresh_rsa_pem)
        self._key = key = _rsa_key(pem)
        self._cache: dict[str, str] = {}
        self.public_pem = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def signature(self, url: str) -> str:
        """Base64. About 0.3 ms the first time for a url, nothing after."""
        found = self._cache.get(url)
        return found if found is not None else self.prepare(url)

    def prepare(self, url: str) -> str:
        """Make it before it is needed."""
        raw = self._key.sign(ticket.vast_message(url), padding.PKCS1v15(), hashes.SHA256())
        signature = base64.b64encode(raw).decode()
        if len(self._cache) >= MAX_CACHED_URLS:
            del self._cache[next(iter(self._cache))]
        self._cache[url] = signature
        return signature

    def knows(self, url: str) -> bool:
        return url in self._cache


def _fresh(now: float) -> StoredKey:
    return StoredKey(ticket.b64u(random_bytes(32)).decode(), now)


def _encode_keys(keys: tuple[StoredKey, ...]) -> bytes:
    return msgspec.json.encode(StoredKeys(keys))


@functools.lru_cache(maxsize=4)  # it takes a tenth of a second, and a simulated world starts many routers
def _rsa_key(pem: bytes) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise SettingsError(f"{VAST_KEY_FILE} in ROUTER_KEYS_DIR holds no RSA key", "delete the file: a new key is made")
    return key


def _fresh_rsa_pem() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
