"""The router as a service: its parts, and the loops that keep them going."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable, Iterator

import structlog

from runtime.bus import Bus

from .admin_endpoints import EndpointAdmin
from .admin_events import EventAdmin
from .admin_groups import GroupAdmin
from .admin_keys import KeyAdmin
from .admin_templates import Templates
from .admin_workers import WorkerAdmin
from .api_keys import KeyRing
from .app import App, listening
from .calls import Table
from .eventlog import EventLog
from .feeds import Feeds
from .keys_dir import KeysDir
from .metrics import RouterMetrics
from .public import Public
from .reporting import Reporter
from .routing import MAX_IDX, Routing
from .settings import RouterSettings
from .store import EndpointStore
from .switchboard import Switchboard
from .tickets import TicketSigner, VastSigner

log = structlog.get_logger()

#: How often time is let pass: broken promises, benches, silence, and what waits for nothing but time.
SWEEP_EVERY_S = 0.25
KEYS_EVERY_S = 60.0
#: Events from before the start that the logs show.
LOG_BACK_S = 3600.0


def unguessable() -> Iterator[int]:
    """Numbers for requests: never 0, not to be guessed, whole in every JSON reader. Chance is drawn from the system in bulk."""
    while True:
        for number in struct.unpack("256Q", os.urandom(2048)):
            yield number % (MAX_IDX - 1) + 1


class Router:
    """Routes until run() is cancelled. `now` is unix s, `monotonic` never goes back.

    Raises SettingsError when the keys directory or the admin key's hash cannot be used.
    """

    def __init__(self, *, bus: Bus, settings: RouterSettings, now: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._settings = settings
        self._now = now
        self._monotonic = monotonic
        directory = KeysDir(settings.keys_dir)
        self.tickets = TicketSigner(directory, now())
        vast = VastSigner(directory)
        self.keys = KeyRing(directory, settings.admin_key_sha256)
        self.board = Switchboard(router=bus.name, max_held=settings.max_held, new_idx=unguessable().__next__)
        self.feeds = Feeds(bus, self.board, self.keys, vast, monotonic)
        self._reporter = Reporter(bus, self.board, now=now, monotonic=monotonic)
        self.routing = Routing(
            self.board,
            self.keys,
            self.tickets,
            vast,
            issuer=settings.issuer,
            ticket_ttl_s=settings.ticket_ttl_s,
            now=now,
            monotonic=monotonic,
            on_waiting=self._reporter.waiting,
            on_ticket=self._reporter.ticket,
        )
        self._logs = EventLog(bus, now() - LOG_BACK_S)
        self._app = App(self.routing, self.keys, self._table(bus, vast), now)
        self.listening = asyncio.Event()  #: set when calls are answered; `port` is then known
        self.port = settings.port

    def _table(self, bus: Bus, vast: VastSigner) -> Table:
        table = Table()
        store = EndpointStore(bus, self.feeds.endpoint_changed, self._now)
        templates = Templates(bus)
        for part in (
            Public(self.tickets, vast, self.feeds, RouterMetrics(self.routing, self.feeds, self._monotonic)),
            EndpointAdmin(store, self.keys, self._now),
            GroupAdmin(store, templates, self._now),
            templates,
            KeyAdmin(bus, self.feeds.key_changed, self._now),
            WorkerAdmin(bus, self.board, now=self._now, monotonic=self._monotonic),
            EventAdmin(bus, self.board, self._logs, self._now),
        ):
            part.add_to(table)
        return table

    async def run(self) -> None:
        """Until cancelled. Stops in this order: no new calls, held calls end, then the feeds."""
        async with self.feeds.open(), asyncio.TaskGroup() as tasks:
            for loop in (
                self._sweep,
                self._look_after_keys,
                self.feeds.sign_ahead,
                self._reporter.report,
                self._reporter.keep_marks,
                self._reporter.gossip,
                self._logs.follow,
            ):
                tasks.create_task(loop(), name=loop.__qualname__)
            async with listening(self._app, self._settings.host, self._settings.port) as port:
                self.port = port
                self.listening.set()
                log.info("router_listening", host=self._settings.host, port=port, router=self.board.router)
                await asyncio.Event().wait()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            self.board.sweep(self._monotonic())

    async def _look_after_keys(self) -> None:
        """Follow a rotation by a router beside us, rotate when it is time, begin to use what was published long enough."""
        while True:
            await asyncio.sleep(KEYS_EVERY_S)
            self.tickets.reread(self._now())
            if self._settings.ticket_key_max_age_s > 0 and self.tickets.rotate_if_older(
                self._settings.ticket_key_max_age_s, self._now()
            ):
                log.info("ticket_key_published", signs_with=self.tickets.kid)
