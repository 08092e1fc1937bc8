"""The router as a service: what it hears, says and remembers. The HTTP side stands in front of it (see listener)."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable, Iterator

import structlog

from runtime.bus import Bus

from .api_keys import KeyRing
from .bridge import Bridge
from .eventlog import EventLog
from .feeds import Feeds
from .grouplog import KEEP_S, GroupLog
from .keys_dir import KeysDir
from .reporting import Reporter
from .routing import MAX_IDX, Routing
from .settings import RouterSettings
from .switchboard import Switchboard
from .tickets import TicketSigner, VastSigner
from .vast_root import root_pem

log = structlog.get_logger()

#: How often time is let pass: broken promises, benches, silence, and what waits for nothing but time.
SWEEP_EVERY_S = 0.25
KEYS_EVERY_S = 60.0
#: Events from before the start that the logs show.
LOG_BACK_S = 3600.0


def unguessable(draw: Callable[[int], bytes] = os.urandom) -> Iterator[int]:
    """Numbers for requests: never 0, not to be guessed, whole in every JSON reader. Chance is drawn in bulk."""
    while True:
        for number in struct.unpack("256Q", draw(2048)):
            yield number % (MAX_IDX - 1) + 1


class Router:
    """Knows and routes until run() is cancelled. `now` is unix s, `monotonic` never goes back, `draw` gives so many bytes of chance.

    Raises SettingsError when the keys directory, the workers' root or the admin key's hash cannot be used.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        settings: RouterSettings,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        draw: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.bus = bus
        self.settings = settings
        self.now = now
        self.monotonic = monotonic
        directory = KeysDir(settings.keys_dir)
        self.tickets = TicketSigner(directory, now())
        self.vast = VastSigner(directory)
        self.vast_root = root_pem(settings.worker_ca, now())
        self.keys = KeyRing(directory, settings.admin_key_sha256)
        self.board = Switchboard(router=bus.name, max_held=settings.max_held, new_idx=unguessable(draw).__next__)
        self.bridge = Bridge(bus, now=now, monotonic=monotonic)
        self.feeds = Feeds(bus, self.board, self.keys, self.vast, self.bridge, monotonic)
        self.logs = EventLog(bus, self.board, now() - LOG_BACK_S)
        self.group_log = GroupLog(bus, now() - KEEP_S)
        self._reporter = Reporter(bus, self.board, now=now, monotonic=monotonic, draw=draw)
        self.routing = Routing(
            self.board,
            self.keys,
            self.tickets,
            self.vast,
            issuer=settings.issuer,
            ticket_ttl_s=settings.ticket_ttl_s,
            now=now,
            monotonic=monotonic,
            draw=draw,
            synced=lambda: self.feeds.synced,
            on_waiting=self._reporter.waiting,
            on_ticket=self._reporter.ticket,
        )

    async def run(self) -> None:
        """Until cancelled. Raises BusError when the bus refuses at the start."""
        async with self.feeds.open(), asyncio.TaskGroup() as tasks:
            for loop in (
                self._sweep,
                self._look_after_keys,
                self.feeds.sign_ahead,
                self._reporter.report,
                self._reporter.keep_marks,
                self._reporter.gossip,
                self.bridge.speak,
                self.logs.follow,
                self.logs.follow_halts,
                self.group_log.follow,
            ):
                tasks.create_task(loop(), name=loop.__qualname__)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            self.board.sweep(self.monotonic())

    async def _look_after_keys(self) -> None:
        """Follow a rotation by a router beside us, rotate when it is time, begin to use what was published long enough."""
        max_age_s = self.settings.ticket_key_max_age_s
        while True:
            await asyncio.sleep(KEYS_EVERY_S)
            self.tickets.reread(self.now())
            if max_age_s > 0 and self.tickets.rotate_if_older(max_age_s, self.now()):
                log.info("ticket_key_published", signs_with=self.tickets.kid)
