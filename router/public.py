"""What everybody may ask: the public keys, whether the router lives and is ready, its metrics; and who a key is."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from .calls import Call, Table, reply
from .feeds import Feeds
from .metrics import RouterMetrics
from .tickets import TicketSigner, VastSigner

#: Workers ask again after this long anyway.
JWKS_MAX_AGE_S = 60


class Public:
    def __init__(self, tickets: TicketSigner, vast: VastSigner, vast_root: bytes, feeds: Feeds, metrics: RouterMetrics) -> None:
        self._tickets = tickets
        self._vast = vast
        self._vast_root = vast_root
        self._feeds = feeds
        self._metrics = metrics

    def add_to(self, table: Table) -> None:
        table.add("GET", "/pubkey/", self.pubkey)
        table.add("GET", "/static/jvastai_root.cer", self.root)
        table.add("GET", "/.well-known/jwks.json", self.jwks)
        table.add("GET", "/livez", self.livez)
        table.add("GET", "/healthz", self.livez)
        table.add("GET", "/readyz", self.readyz)
        table.add("GET", "/metrics", self.metrics)
        table.add("GET", "/api/v0/users/current", self.user)

    async def pubkey(self, _: Call) -> web.Response:
        """RSA, for Vast's workers."""
        return web.Response(body=self._vast.public_pem, content_type="application/x-pem-file")

    async def root(self, _: Call) -> web.Response:
        """For Vast's clients."""
        return web.Response(body=self._vast_root, content_type="application/x-pem-file")

    async def jwks(self, _: Call) -> web.Response:
        """Ed25519, for ours."""
        headers = {"Cache-Control": f"max-age={JWKS_MAX_AGE_S}"}
        return web.Response(body=self._tickets.jwks, content_type="application/jwk-set+json", headers=headers)

    async def livez(self, _: Call) -> web.Response:
        return reply({"ok": True})

    async def readyz(self, _: Call) -> web.Response:
        """Not ready means that a healthy replica is preferred; routing goes on all the same."""
        feeds = self._feeds
        stale = feeds.synced and not feeds.ready
        why = "" if feeds.ready else "the view is stale: NATS is away" if stale else "no complete view yet"
        return reply(
            {"ok": feeds.ready, "synced": feeds.synced, "stale": stale, "view_age_s": min(feeds.age_s, 1e9), "reason": why},
            200 if feeds.ready else 503,
        )

    async def metrics(self, _: Call) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def user(self, call: Call) -> web.Response:
        """Vast's command line asks who it is."""
        who = await call.who()
        return reply(
            {"id": 0, "username": who.key_id, "email": "", "role": who.role, "host_agreement_accepted": False, "balance": 0}
        )
