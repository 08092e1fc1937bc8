"""The HTTP side of a router: all its paths, and the socket."""

from __future__ import annotations

import asyncio

import structlog

from .admin_compare import CompareAdmin
from .admin_endpoints import EndpointAdmin
from .admin_events import EventAdmin
from .admin_groups import GroupAdmin
from .admin_keys import KeyAdmin
from .admin_overrides import OverrideAdmin
from .admin_templates import Templates
from .admin_update import UpdateAdmin
from .admin_workers import WorkerAdmin
from .app import App, listening
from .calls import Table
from .metrics import RouterMetrics
from .public import Public
from .service import Router
from .store import EndpointStore
from .vast_reports import VastReports

log = structlog.get_logger()


class Listener:
    """Answers for `router` until run() is cancelled; then answers those who are held, and closes. Stop it before the router."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._app = App(router.routing, router.keys, _table(router), router.now)
        self.listening = asyncio.Event()  #: set when calls are answered; `port` is then known
        self.port = router.settings.port

    async def run(self) -> None:
        """Raises OSError when the address cannot be had."""
        host = self._router.settings.host
        async with listening(self._app, host, self.port) as port:
            self.port = port
            self.listening.set()
            log.info("router_listening", host=host, port=port, router=self._router.board.router)
            await asyncio.Event().wait()


def _table(router: Router) -> Table:
    table = Table()
    bus, board, keys, feeds, now = router.bus, router.board, router.keys, router.feeds, router.now
    store = EndpointStore(bus, feeds.endpoint_changed, now)
    templates = Templates(bus)
    for part in (
        Public(
            router.tickets,
            router.vast,
            router.vast_root,
            feeds,
            RouterMetrics(router.routing, feeds, router.bridge, router.monotonic),
        ),
        EndpointAdmin(store, keys, now),
        OverrideAdmin(store, now),
        GroupAdmin(bus, store, templates, board.halts, now),
        templates,
        UpdateAdmin(store, templates, board, now),
        KeyAdmin(bus, feeds.key_changed, now),
        VastReports(router.bridge, feeds),
        CompareAdmin(board, router.group_log, now=now, monotonic=router.monotonic),
        WorkerAdmin(bus, board, now=now, monotonic=router.monotonic),
        EventAdmin(bus, board, router.logs, now),
    ):
        part.add_to(table)
    return table
