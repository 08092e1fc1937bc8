"""The ticket: a compact JWS (RFC 7515), EdDSA (RFC 8037), that lets one request in at one worker for a short time.

Pure: claims and the exact bytes. Who signs and who verifies bring their own Ed25519.
"""

from __future__ import annotations

import base64
import binascii

import msgspec

DEFAULT_TTL_S = 60.0  #: time to arrive; the request may run longer
CLOCK_SKEW_S = 5.0  #: allowed between router and worker
MAX_TICKET_BYTES = 4096


class TicketClaims(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Times are integer unix seconds, as JWT has them."""

    iss: str
    aud: str  #: worker id
    ep: str  #: endpoint's name
    rid: str  #: request id, stable over retries
    jti: str  #: this ticket; what a replay is told by
    reqnum: int
    cost: float  #: work units promised
    iat: int
    nbf: int
    exp: int
    grp: int = 0
    n: int = 1  #: uses
    sess: str = ""
    tls: str = ""  #: fingerprint of the worker's certificate
    key: str = ""  #: id (not secret) of the API key that asked


class JwsHeader(msgspec.Struct, frozen=True, kw_only=True):
    alg: str
    kid: str
    typ: str = "corral-ticket+jwt"


class TicketMalformed(ValueError):
    """Not a compact JWS of ours. The message says which part is wrong."""


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def b64u(data: bytes) -> bytes:
    # base64.urlsafe_b64encode() with less around it: every ticket is made of this.
    return binascii.b2a_base64(data, newline=False).translate(_URL_SAFE, b"=")


def un_b64u(data: bytes) -> bytes:
    """Raises TicketMalformed on anything but canonical unpadded base64url."""
    try:
        raw = base64.b64decode(data + b"=" * (-len(data) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise TicketMalformed("not base64url") from error
    if b64u(raw) != data:
        raise TicketMalformed("not canonical base64url")
    return raw


def header_segment(kid: str) -> bytes:
    """First part of every ticket under this key; constant, so computed once per key."""
    return b64u(msgspec.json.encode(JwsHeader(alg="EdDSA", kid=kid)))


def signing_input(header: bytes, claims: TicketClaims) -> bytes:
    return header + b"." + b64u(msgspec.json.encode(claims))


def assemble(signed: bytes, signature: bytes) -> str:
    return (signed + b"." + b64u(signature)).decode()


class ParsedTicket(msgspec.Struct, frozen=True):
    """A ticket taken apart; nothing is verified yet."""

    kid: str
    claims: TicketClaims
    signed: bytes
    signature: bytes


_header_decoder = msgspec.json.Decoder(JwsHeader)
_claims_decoder = msgspec.json.Decoder(TicketClaims)


def parse(token: str) -> ParsedTicket:
    """Take a ticket apart. Raises TicketMalformed; says nothing about its truth."""
    if len(token) > MAX_TICKET_BYTES:
        raise TicketMalformed("too long")
    try:
        head, body, signature = token.encode("ascii").split(b".")
    except (UnicodeEncodeError, ValueError) as error:
        raise TicketMalformed("not three dotted parts") from error
    try:
        header = _header_decoder.decode(un_b64u(head))
        claims = _claims_decoder.decode(un_b64u(body))
    except msgspec.MsgspecError as error:
        raise TicketMalformed(f"header or claims: {error}") from error
    if header.alg != "EdDSA":
        raise TicketMalformed(f"algorithm {header.alg!r} is not EdDSA")
    return ParsedTicket(header.kid, claims, head + b"." + body, un_b64u(signature))


class Jwk(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 8037 public key."""

    kid: str
    x: str  #: 32 raw bytes, base64url
    kty: str = "OKP"
    crv: str = "Ed25519"
    use: str = "sig"
    alg: str = "EdDSA"


class Jwks(msgspec.Struct, frozen=True, kw_only=True):
    keys: tuple[Jwk, ...] = ()


def vast_message(url: str) -> bytes:
    """What Vast's `signature` field signs: json.dumps({"url": url}, indent=4, sort_keys=True), byte for byte."""
    return b'{\n    "url": ' + msgspec.json.encode(url) + b"\n}"
