"""NATS's own JWTs, made with nkeys alone: operator, accounts with scoped signing keys, users, and the .creds file.

The server trusts the operator's key; the operator signs accounts; an account lists one signing key per role together with
what that role may do; whoever has a role's signing key can make users of that role and of no other. So permissions live in
the account, not in the user's JWT, and a provisioner can make workers without being able to make routers.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import nkeys

_KINDS = {"operator": nkeys.PREFIX_BYTE_OPERATOR, "account": nkeys.PREFIX_BYTE_ACCOUNT, "user": nkeys.PREFIX_BYTE_USER}
_UNLIMITED = {"subs": -1, "data": -1, "payload": -1}
_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}


class Key:
    """An nkey pair. `seed` is a secret; `public` is safe to show."""

    def __init__(self, seed: str) -> None:
        """Raises ValueError when the text is no seed."""
        try:
            self._pair = nkeys.from_seed(bytearray(seed.strip().encode()))
            self.public = bytes(self._pair.public_key).decode()
        except (nkeys.NkeysError, ValueError) as error:
            raise ValueError(f"not an nkey seed: {type(error).__name__}") from error
        self.seed = seed.strip()

    def __repr__(self) -> str:
        return f"Key({self.public})"

    @classmethod
    def new(cls, kind: str) -> Key:
        """A new pair; `kind` is operator, account or user."""
        return cls(bytes(nkeys.encode_seed(os.urandom(32), _KINDS[kind])).decode())

    def sign(self, data: bytes) -> bytes:
        return bytes(self._pair.sign(data))


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What the users of one role may do. Subjects may contain NATS's templates {{name()}} and {{tag(x)}}."""

    role: str
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    replies: int = 0  #: how many messages a user may send to the reply subject of a request it received
    reply_ttl_s: float = 60.0


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """A service that an account offers to others."""

    subject: str
    streamed: bool = False  #: one request, many answers


class Import(msgspec.Struct, frozen=True, kw_only=True):
    """A service of another account, and the subject by which it is known here."""

    account: str  #: public key
    subject: str
    local_subject: str = ""


def operator_jwt(operator: Key, name: str, system_account: str, *, issued_at: float) -> str:
    return _sign(operator, operator.public, name, {"type": "operator", "version": 2, "system_account": system_account}, issued_at)


def account_jwt(
    operator: Key,
    account: str,
    name: str,
    *,
    issued_at: float,
    scopes: Mapping[str, Scope] | None = None,
    exports: Sequence[Export] = (),
    imports: Sequence[Import] = (),
    jetstream: bool = True,
) -> str:
    """An account; `scopes` maps the public key of a signing key to what its users may do."""
    limits: dict[str, Any] = {**_UNLIMITED, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}
    if jetstream:
        limits |= {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    body = {
        "type": "account",
        "version": 2,
        "limits": limits,
        "default_permissions": {"pub": {}, "sub": {}},
        "signing_keys": [_scope(key, scope) for key, scope in (scopes or {}).items()],
        "exports": [
            {"name": e.subject, "subject": e.subject, "type": "service", "response_type": "Stream" if e.streamed else "Singleton"}
            for e in exports
        ],
        "imports": [
            {"name": i.subject, "subject": i.subject, "account": i.account, "type": "service"}
            | ({"local_subject": i.local_subject} if i.local_subject else {})
            for i in imports
        ],
    }
    return _sign(operator, account, name, body, issued_at)


def user_jwt(
    signing: Key,
    account: str,
    user: str,
    name: str,
    *,
    issued_at: float,
    tags: Sequence[str] = (),
    expires_at: float | None = None,
) -> str:
    """A user of the role whose signing key this is. It carries no limits of its own: a scoped user must not."""
    body: dict[str, Any] = {"type": "user", "version": 2, "issuer_account": account, "pub": {}, "sub": {}}
    body |= {"subs": 0, "data": 0, "payload": 0}
    if tags:
        body["tags"] = list(tags)
    return _sign(signing, user, name, body, issued_at, expires_at)


def creds_file(jwt: str, seed: str) -> str:
    """The text of a .creds file as every NATS client reads it."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )


class Claims(msgspec.Struct, frozen=True):
    """What we read of a JWT. The server verifies it; we only want to know who we are and for how long."""

    name: str = ""
    sub: str = ""
    iat: float = 0.0
    exp: float | None = None


def claims(jwt: str) -> Claims:
    """Raises ValueError when the text is no JWT."""
    try:
        body = jwt.split(".")[1]
        return msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=Claims)
    except (IndexError, ValueError, msgspec.DecodeError) as error:
        raise ValueError(f"not a JWT: {error}") from error


def _scope(public_key: str, scope: Scope) -> dict[str, Any]:
    template: dict[str, Any] = {**_UNLIMITED, "pub": {"allow": scope.publish}, "sub": {"allow": scope.subscribe}}
    if not scope.publish:  # an empty list would mean: everything
        template["pub"] = {"deny": [">"]}
    if not scope.subscribe:
        template["sub"] = {"deny": [">"]}
    if scope.replies:
        template["resp"] = {"max": scope.replies, "ttl": int(scope.reply_ttl_s * 1e9)}
    return {"kind": "user_scope", "key": public_key, "role": scope.role, "template": template}


def _sign(
    issuer: Key, subject: str, name: str, nats: Mapping[str, Any], issued_at: float, expires_at: float | None = None
) -> str:
    body: dict[str, Any] = {"iat": int(issued_at), "iss": issuer.public, "name": name, "sub": subject, "nats": nats}
    if expires_at is not None:
        body["exp"] = int(expires_at)
    body["jti"] = base64.b32encode(hashlib.sha256(msgspec.json.encode(body, order="sorted")).digest()).rstrip(b"=").decode()
    signed = _b64(msgspec.json.encode(_HEADER)) + b"." + _b64(msgspec.json.encode(body))
    return (signed + b"." + _b64(issuer.sign(signed))).decode()


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
