"""Bring your own machine: gives it a name and credentials. What runs there is its owner's business."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import structlog

from runtime.bus import Bus, Message
from runtime.errors import BusError
from schemas import codec
from schemas.ids import WorkerId
from schemas.records import InstanceRecord
from schemas.signals import EnrollReply, EnrollRequest

from . import bundles, facts
from .bundles import Bundles
from .facts import Herald
from .instances import InstanceState
from .store import Store

log = structlog.get_logger()

MAX_TTL_S = 10 * 365 * 86400.0
MIN_TTL_S = 60.0
PROVIDER = "external"


def fresh_worker_id() -> WorkerId:
    """48 random bits, as wide as the ids that are derived from commands."""
    return WorkerId(f"w{secrets.randbits(48)}")


class Enrollment:
    """Answers subjects.ENROLL."""

    def __init__(
        self,
        *,
        bus: Bus,
        store: Store,
        herald: Herald,
        bundles: Bundles,
        now: Callable[[], float],
        new_id: Callable[[], WorkerId] = fresh_worker_id,
    ) -> None:
        self._bus = bus
        self._store = store
        self._herald = herald
        self._bundles = bundles
        self._now = now
        self._new_id = new_id

    async def answer(self, message: Message) -> bytes:
        try:
            request = codec.decode(message.data, EnrollRequest)
        except codec.DecodeError as error:
            return codec.encode(EnrollReply(ok=False, message=f"not an enroll request: {error}"))
        try:
            return codec.encode(await self.enroll(request))
        except BusError as error:
            return codec.encode(EnrollReply(ok=False, message=f"the bus did not take it; try again: {error.message}"))

    async def enroll(self, request: EnrollRequest) -> EnrollReply:
        """Raises BusError. A request that is repeated enrolls a second worker; one that never shows up costs nothing."""
        if not MIN_TTL_S <= request.ttl_s <= MAX_TTL_S:
            return EnrollReply(ok=False, message=f"ttl_s must be between {MIN_TTL_S:.0f} and {MAX_TTL_S:.0f}")
        endpoint = await self._store.endpoint(request.endpoint_id)
        group = endpoint.group(request.group_id) if endpoint is not None else None
        if endpoint is None or group is None:
            what = (
                f"group {request.group_id} in endpoint {request.endpoint_id}" if endpoint else f"endpoint {request.endpoint_id}"
            )
            return EnrollReply(ok=False, message=f"there is no {what}")
        now = self._now()
        record = InstanceRecord(
            worker_id=self._new_id(),
            endpoint_id=endpoint.id,
            group_id=group.id,
            provider=PROVIDER,
            state=InstanceState.RUNNING,
            revision=group.revision,
            url=request.url.rstrip("/"),
            created_at=now,
            state_at=now,
            starts=1,
        )
        bundle = self._bundles.issue(
            record.worker_id,
            endpoint.id,
            group.id,
            revision=group.revision,
            endpoint_name=endpoint.name,
            ttl_s=request.ttl_s,
        )
        await self._store.save(record, 0)
        await self._herald.tell(facts.enrolled(record, now))
        log.info("worker_enrolled", worker=record.worker_id, endpoint=endpoint.id, group=group.id)
        return EnrollReply(ok=True, worker_id=record.worker_id, token=bundles.token(bundle))
