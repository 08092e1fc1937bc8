"""A small HTTP server for those who look after a process: /livez, /readyz, /metrics. On loopback unless told otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from .errors import SettingsError

log = structlog.get_logger()

Check = Callable[[], str]
"""Returns "" when all is well, else one sentence."""


class HealthSettings(msgspec.Struct, frozen=True, kw_only=True):
    host: str = "127.0.0.1"
    port: int = 0  #: 0: off


class Health:
    """A service for serve(). `checks` are asked at every /readyz; alive is who answers at all."""

    def __init__(self, settings: HealthSettings, registry: CollectorRegistry, checks: Mapping[str, Check]) -> None:
        self._settings = settings
        self._registry = registry
        self._checks = dict(checks)

    async def run(self) -> None:
        """Until cancelled; with port 0 it only waits. Raises SettingsError when the port is taken."""
        if not self._settings.port:
            await asyncio.Event().wait()
        runner = web.AppRunner(self.app(), access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._settings.host, self._settings.port)
            try:
                await site.start()
            except OSError as error:
                raise SettingsError(
                    f"cannot listen on {self._settings.host}:{self._settings.port}: {error.strerror}",
                    "choose another health port",
                ) from error
            log.info("health_listening", host=self._settings.host, port=self._settings.port)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    def app(self) -> web.Application:
        """The three routes, for those who serve them beside others."""
        app = web.Application()
        app.router.add_get("/livez", self._live)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/metrics", self._metrics)
        return app

    @staticmethod
    async def _live(_: web.Request) -> web.Response:
        return web.json_response({"ok": True})

    async def _ready(self, _: web.Request) -> web.Response:
        problems = {name: problem for name, check in self._checks.items() if (problem := check())}
        return web.json_response({"ok": not problems, "problems": problems}, status=503 if problems else 200)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
