"""The router's public keys: fetched at start and now and then, kept on disk so that a worker restarts while the router is away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import aiohttp
import structlog

from . import files
from .verify import read_jwks

log = structlog.get_logger()

REFRESH_S = 300.0  #: how long a key that the router withdrew may live on here
RETRY_S = (0.2, 15.0)  #: first and longest pause after a failed fetch
#: Unknown kids, whoever sends them, cause this many fetches at once and then one each ON_DEMAND_S.
ON_DEMAND_BURST = 3
ON_DEMAND_S = 5.0
MAX_BYTES = 64 * 1024
TIMEOUT_S = 5.0


class KeyRing:
    """`keys` is the live mapping kid -> 32 bytes. Run `run()` for as long as it should stay fresh."""

    def __init__(self, *, control_url: str, cache: Path | None, monotonic: Callable[[], float]) -> None:
        self._url = control_url.rstrip("/") + "/.well-known/jwks.json"
        self._cache = cache
        self._monotonic = monotonic
        self._allowance = float(ON_DEMAND_BURST)
        self._allowance_at = monotonic()
        self._fetching: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._last_error = ""  #: of the last fetch; empty: it was good
        self.keys: dict[str, bytes] = {}
        self._load_cache()

    async def wait_ready(self) -> None:
        """Until there is at least one key."""
        await self._ready.wait()

    @property
    def ready(self) -> bool:
        return self._ready.is_set()

    async def run(self) -> None:
        """Refresh until cancelled."""
        pause = RETRY_S[0]
        while True:
            await self.fetch_now()
            if not self._last_error:
                pause = RETRY_S[0]
                await asyncio.sleep(REFRESH_S * random.uniform(0.8, 1.2))
            else:
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(pause * 2, RETRY_S[1])

    async def look_again(self) -> None:
        """A ticket named a key we do not have. Fetches within the allowance; joins a fetch that is under way."""
        if self._fetching is None:
            now = self._monotonic()
            self._allowance = min(ON_DEMAND_BURST, self._allowance + (now - self._allowance_at) / ON_DEMAND_S)
            self._allowance_at = now
            if self._allowance < 1:
                return
            self._allowance -= 1
        await self.fetch_now()

    async def fetch_now(self) -> None:
        """One fetch, shared by all who ask while it runs. A failure is logged and changes nothing."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch(), name="fetch keys")
        # Shielded: one client that leaves must not end the fetch that others wait for.
        await asyncio.shield(self._fetching)

    async def _fetch(self) -> None:
        try:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(self._url, allow_redirects=False) as reply:
                if reply.status != 200:
                    raise ValueError(f"status {reply.status}")
                document = await reply.content.read(MAX_BYTES)
            keys = read_jwks(document)
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            text = f"{type(error).__name__}: {error}"
            if text != self._last_error:  # once per outage and reason
                log.warning("keys_not_fetched", url=self._url, error=text, have=len(self.keys))
            self._last_error = text
            return
        finally:
            self._fetching = None
        self._last_error = ""
        if keys != self.keys:
            log.info("keys_changed", kids=sorted(keys))
            self.keys.clear()
            self.keys.update(keys)
            self._ready.set()
            if self._cache is not None:
                files.write(self._cache, document)

    def _load_cache(self) -> None:
        if self._cache is None or not self._cache.exists():
            return
        try:
            self.keys.update(read_jwks(self._cache.read_bytes()))
        except (OSError, ValueError) as error:
            log.warning("key_cache_unreadable", path=str(self._cache), error=str(error))
        else:
            self._ready.set()
