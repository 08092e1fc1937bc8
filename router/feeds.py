"""What the router hears: KV views and heartbeats, turned into calls on the switchboard and the key ring.

Values that cannot be read are logged and left out; what was known before stays. While the bus is away
nothing arrives, and the last view serves on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import structlog

from runtime.bus import Bus, Message, View
from schemas import codec, ids, subjects
from schemas.records import ApiKeyRecord
from schemas.signals import Reservations

from .api_keys import KeyRing
from .bridge import Bridge
from .switchboard import Switchboard
from .tickets import VastSigner
from .view import Pulse
from .voices import Known

log = structlog.get_logger()

#: The view may be this old before a healthy replica should be preferred.
STALE_AFTER_S = 30.0
#: Signatures made in one go; 0.3 ms each.
SIGN_AT_ONCE = 4
#: A sender of nonsense must not fill the log.
LOG_EVERY_S = 1.0

_pulse = msgspec.json.Decoder(Pulse).decode
_reservations = msgspec.json.Decoder(Reservations).decode
_api_key = msgspec.json.Decoder(ApiKeyRecord).decode
_known = msgspec.json.Decoder(Known).decode


class Feeds:
    """`monotonic` is the switchboard's clock."""

    def __init__(
        self, bus: Bus, board: Switchboard, keys: KeyRing, vast: VastSigner, bridge: Bridge, monotonic: Callable[[], float]
    ) -> None:
        self._bus = bus
        self._board = board
        self._keys = keys
        self._vast = vast
        self._bridge = bridge
        self._monotonic = monotonic
        self._views: list[View] = []  #: none until all are there
        self._unsigned: dict[str, None] = {}
        self._sign_now = asyncio.Event()
        self._logged_at = float("-inf")
        self.unreadable = 0  #: messages and values that could not be read

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Listen for as long as the context is open."""
        bus, views = self._bus, []
        async with AsyncExitStack() as stack:
            for bucket, on_change in (
                (subjects.BUCKET_ENDPOINTS, self.endpoint_changed),
                (subjects.BUCKET_KEYS, self.key_changed),
                (subjects.BUCKET_INSTANCES, self.instance_changed),
                (subjects.BUCKET_WORKERS, self.worker_changed),
            ):
                views.append(await stack.enter_async_context(bus.view(bucket, on_change)))
            for subject, on_message in (
                (subjects.HEARTBEATS, self.heartbeat),
                (subjects.RESERVATIONS, self.reservations),
            ):
                stack.push_async_callback((await bus.subscribe(subject, on_message)).stop)
            self._views = views
            yield

    @property
    def synced(self) -> bool:
        """A complete picture was seen at least once."""
        return bool(self._views) and all(view.synced for view in self._views)

    @property
    def age_s(self) -> float:
        """Age of the oldest view; infinite before the first."""
        return max((view.age_s for view in self._views), default=float("inf"))

    @property
    def ready(self) -> bool:
        return self.synced and self.age_s < STALE_AFTER_S

    # --- KV ---

    def endpoint_changed(self, key: str, data: bytes | None, revision: int) -> None:
        if key == subjects.SEQUENCE_KEY:
            return
        try:
            endpoint_id = ids.endpoint_from_token(key)
            record = codec.endpoint_record(data) if data is not None else None
        except ValueError as error:
            self._cannot_read(subjects.BUCKET_ENDPOINTS, key, revision, error)
            return
        if record is None:
            self._board.endpoint_gone(endpoint_id)
            self._keys.endpoint_gone(endpoint_id)
        else:
            self._board.endpoint(record, self._monotonic())
            self._keys.endpoint(record)

    def key_changed(self, key: str, data: bytes | None, revision: int) -> None:
        try:
            if data is None:
                self._keys.revoked(key)
            else:
                self._keys.stored(key, _api_key(data))
        except ValueError as error:
            self._cannot_read(subjects.BUCKET_KEYS, "(hash)", revision, error)

    def worker_changed(self, key: str, data: bytes | None, revision: int) -> None:
        try:
            endpoint_id, worker_id = _split(key)
            record = codec.worker_record(data) if data is not None else None
        except ValueError as error:
            self._cannot_read(subjects.BUCKET_WORKERS, key, revision, error)
            return
        if record is None:
            self._board.worker_gone(endpoint_id, worker_id)
            self._bridge.worker_gone(worker_id)
        else:
            self._prepare(record.url)
            self._board.worker(record, self._monotonic())
            self._bridge.worker(record)

    def instance_changed(self, key: str, data: bytes | None, revision: int) -> None:
        try:
            _, worker_id = _split(key)
            known = _known(data) if data is not None else None
        except ValueError as error:
            self._cannot_read(subjects.BUCKET_INSTANCES, key, revision, error)
            return
        self._bridge.instance(worker_id, known)

    # --- core NATS ---

    def heartbeat(self, message: Message) -> None:
        try:
            pulse = _pulse(message.data)
            words = codec.heartbeat(message.data) if pulse.via not in ("", self._bus.name) else None
        except ValueError as error:
            self._cannot_read(message.subject, "", 0, error)
            return
        # The worker may publish on its own subject only; what it says about itself must agree with that.
        if message.subject != subjects.heartbeat(pulse.endpoint_id, pulse.worker_id):
            self._cannot_read(message.subject, "", 0, ValueError("it speaks for another worker"))
            return
        self._prepare(pulse.url)
        self._board.pulse(pulse, self._monotonic())
        if words is not None:
            self._bridge.overheard(words)

    def reservations(self, message: Message) -> None:
        try:
            endpoint_id = ids.endpoint_from_token(subjects.endpoint_token_of(message.subject))
            told = _reservations(message.data)
        except ValueError as error:
            self._cannot_read(message.subject, "", 0, error)
            return
        self._board.reservations(endpoint_id, told, self._monotonic())

    # --- signatures before they are needed ---

    def _prepare(self, url: str) -> None:
        if url and not self._vast.knows(url):
            self._unsigned[url] = None
            self._sign_now.set()

    async def sign_ahead(self) -> None:
        """Make Vast's signatures for new workers, a few at a time, so that no request waits for them."""
        while True:
            await self._sign_now.wait()
            self._sign_now.clear()
            while self._unsigned:
                for url in list(self._unsigned)[:SIGN_AT_ONCE]:
                    del self._unsigned[url]
                    self._vast.signature(url)
                await asyncio.sleep(0)

    def _cannot_read(self, where: str, key: str, revision: int, error: ValueError) -> None:
        self.unreadable += 1
        if self._monotonic() >= self._logged_at + LOG_EVERY_S:
            self._logged_at = self._monotonic()
            log.warning("unreadable_message", where=where, key=key, revision=revision, error=str(error), total=self.unreadable)


def _split(key: str) -> tuple[ids.EndpointId, ids.WorkerId]:
    """A key of the buckets of workers and instances. Raises ValueError."""
    token, _, worker = key.partition(".")
    return ids.endpoint_from_token(token), ids.worker_id(worker)
