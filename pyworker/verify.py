"""Is this ticket true, for us, now, and new? Answered without asking anybody: the keys are here already.

The order matters: nothing in a ticket is believed before its signature is checked, and only the router's Ed25519 keys count
(`alg` is fixed by schemas.ticket, so "none" and HS256 tricks never reach a key).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from .replay import ReplayCache, ReplayCacheFull
from .wire import http, ids, ticket

#: Longer-lived tickets would have to be remembered longer than the replay cache is meant for.
MAX_LIFE_S = 3600

_Code = http.ErrorCode


class Refused(Exception):
    """The ticket is no good. `status` and `code` go to the client; `retry` is False where the same call cannot succeed here."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry: bool = False,
        retry_after_s: float | None = None,
        fields: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry = retry
        self.retry_after_s = retry_after_s
        self.fields = fields or {}


class UnknownKey(Refused):
    """Signed with a key we have not seen: worth one look at the router's key list."""

    def __init__(self, kid: str) -> None:
        super().__init__(
            401,
            _Code.TICKET_UNKNOWN_KEY,
            f"The ticket is signed with key {kid[:40]!r}, which the router of this worker does not publish. Ask for a new ticket.",
        )


class Verifier:
    """Checks tickets for one worker. `keys` is a live mapping kid -> 32 public bytes."""

    def __init__(
        self,
        *,
        worker_id: ids.WorkerId,
        issuer: str,
        keys: Mapping[str, bytes],
        replays: ReplayCache,
        now: Callable[[], float],
        uptime_s: Callable[[], float],
    ) -> None:
        self._worker_id = worker_id
        self._issuer = issuer
        self._keys = keys
        self._replays = replays
        self._now = now
        self._uptime_s = uptime_s
        self._prepared: dict[bytes, VerifyKey] = {}
        self.last_ticket_exp_at = 0.0  #: unix s; the latest expiry among good tickets: evidence for a drain

    def check(self, token: str) -> ticket.TicketClaims:
        """The claims of a good ticket; nothing is spent yet. Raises Refused (UnknownKey when the key is not known)."""
        try:
            parsed = ticket.parse(token)
        except ticket.TicketMalformed as error:
            raise Refused(
                401, _Code.TICKET_MALFORMED, f"The ticket cannot be read: {error}. Pass it on exactly as the router gave it."
            ) from error
        raw = self._keys.get(parsed.kid)
        if raw is None:
            raise UnknownKey(parsed.kid)
        key = self._prepared.get(raw) or self._prepare(raw)
        try:
            key.verify(parsed.signed, parsed.signature)
        except (BadSignatureError, ValueError) as error:
            raise Refused(401, _Code.TICKET_FORGED, "The ticket's signature is wrong. Ask the router for a ticket.") from error
        claims = parsed.claims
        if claims.iss != self._issuer:
            raise Refused(
                401, _Code.TICKET_FORGED, "The ticket comes from another issuer. Ask this worker's router for a ticket."
            )
        if claims.aud != self._worker_id:
            raise Refused(
                421, _Code.TICKET_WRONG_WORKER, "The ticket is for another worker. Send the request to the url that came with it."
            )
        self._check_times(claims)
        self._check_new(claims)
        self.last_ticket_exp_at = max(self.last_ticket_exp_at, float(claims.exp))
        return claims

    def _check_new(self, claims: ticket.TicketClaims) -> None:
        if not claims.jti or self._replays.is_spent(claims.jti, max(claims.n, 1)):
            message = "The ticket has been used. Each request needs its own: ask the router again."
            raise Refused(409, _Code.TICKET_REPLAYED, message)

    def _check_times(self, claims: ticket.TicketClaims) -> None:
        now = self._now()
        skew = ticket.CLOCK_SKEW_S
        if now > claims.exp + skew:
            message = f"The ticket expired {now - claims.exp:.0f} s ago; it is the time to arrive. Ask the router for a new one."
            raise Refused(401, _Code.TICKET_EXPIRED, message)
        if now < claims.nbf - skew:
            ahead = claims.nbf - skew - now
            message = f"The ticket is not valid for another {ahead:.0f} s. If this lasts, the clocks of router and worker differ."
            raise Refused(401, _Code.TICKET_NOT_YET, message, retry=True, retry_after_s=min(ahead, 60.0))
        if claims.exp - claims.iat > MAX_LIFE_S:
            raise Refused(401, _Code.TICKET_MALFORMED, f"The ticket lives longer than {MAX_LIFE_S} s, which no router gives.")
        if claims.iat < now - self._uptime_s() - skew:
            # Used tickets are forgotten when the process ends, so an older one cannot be told from a replay.
            raise Refused(
                409, _Code.TICKET_REPLAYED, "The ticket is older than this worker's process. Ask the router for a new one."
            )

    def spend(self, claims: ticket.TicketClaims) -> None:
        """Use the ticket up. Raises Refused when somebody did since check(), or when no more can be remembered."""
        self._check_new(claims)
        try:
            self._replays.spend(claims.jti, claims.exp + int(ticket.CLOCK_SKEW_S) + 1, self._now())
        except ReplayCacheFull as error:
            raise Refused(
                503, _Code.UNAVAILABLE, "Too many tickets are live at this worker. Try again.", retry=True, retry_after_s=1.0
            ) from error

    def _prepare(self, raw: bytes) -> VerifyKey:
        if len(self._prepared) > 64:
            self._prepared.clear()
        key = self._prepared[raw] = VerifyKey(raw)
        return key


def read_jwks(document: bytes) -> dict[str, bytes]:
    """Public keys by kid out of a JWKS. Keys of other kinds are passed over. Raises ValueError when it is no JWKS or holds no key of ours."""
    try:
        keys = msgspec.json.decode(document, type=_LooseJwks).keys
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a JWKS: {error}") from error
    found = {}
    for key in keys:
        if key.kty == "OKP" and key.crv == "Ed25519" and key.kid and key.x:
            raw = ticket.un_b64u(key.x.encode())
            if len(raw) != 32:
                raise ValueError(f"key {key.kid!r} is not 32 bytes long")
            found[key.kid] = raw
    if not found:
        raise ValueError("the JWKS holds no Ed25519 key")
    return found


class _LooseJwk(msgspec.Struct, frozen=True):
    """Any RFC 7517 key, so that a foreign kind beside ours is no error."""

    kty: str = ""
    crv: str = ""
    kid: str = ""
    x: str = ""


class _LooseJwks(msgspec.Struct, frozen=True):
    keys: tuple[_LooseJwk, ...] = ()
