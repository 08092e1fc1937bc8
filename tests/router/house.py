"""What stands around a router under test: the scaler's pen, workers' heartbeats, an HTTP client."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from router.listener import Listener
from router.service import Router
from router.settings import RouterSettings
from runtime.bus import Bus
from schemas import subjects
from schemas.ids import EndpointId, WorkerId
from schemas.records import EndpointRecord, WorkerRecord
from schemas.signals import Heartbeat
from schemas.states import WorkerState

ADMIN_KEY = "test-admin-key"
DEADLINE_S = 10.0
_numbers = itertools.count(int(time.time() * 1000) % 10**9 * 1000)


async def until(what: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """Wait for something that this process can see, without guessing how long it takes."""
    async with asyncio.timeout(deadline_s):
        while not (found := what()):
            await asyncio.sleep(0.005)
        return found


class House:
    """One router with its surroundings."""

    def __init__(self, listener: Listener, bus: Bus, http: aiohttp.ClientSession) -> None:
        self.listener = listener
        self.router = listener._router
        self.bus = bus  #: may do everything: the scaler, the workers
        self.http = http
        self.seq = itertools.count(1)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.port}"

    async def call(self, method: str, path: str, body: Any = None, key: str | None = ADMIN_KEY, **more: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
        async with self.http.request(method, self.url + path, json=body, headers=headers, **more) as response:
            data = await response.read()
            return response.status, msgspec.json.decode(data) if data else None

    async def route(self, endpoint: str, key: str | None = ADMIN_KEY, **fields: Any) -> Any:
        status, answer = await self.call("POST", "/route/", {"endpoint": endpoint, **fields}, key)
        assert status == 200, answer
        return answer

    async def endpoint(self, groups: int = 1, **fields: Any) -> EndpointRecord:
        """Made through the API, with groups of the same template."""
        fields.setdefault("endpoint_name", f"ep-{next(_numbers)}")
        status, answer = await self.call("POST", "/api/v0/endptjobs/", fields)
        assert status == 200, answer
        for _ in range(groups):
            body = {"endpoint_id": answer["result"], "template": {"name": "t", "command": ["serve"]}, "weight": 1}
            status, made = await self.call("POST", "/api/v0/workergroups/", body)
            assert status == 200, made
        return self.router.board.desks[EndpointId(answer["result"])].record

    async def worker(
        self, endpoint: EndpointRecord, group: int = 0, state: WorkerState = WorkerState.READY, **fields: Any
    ) -> WorkerRecord:
        """The scaler writes a worker down."""
        fields.setdefault("worker_id", WorkerId(f"w{next(_numbers)}"))
        fields.setdefault("url", f"http://127.0.0.1:{20000 + next(_numbers) % 20000}")
        fields.setdefault("perf", 100.0)
        fields.setdefault("slots", 1)
        record = WorkerRecord(endpoint_id=endpoint.id, group_id=endpoint.groups[group].id, state=state, **fields)
        await self.write(record)
        return record

    async def write(self, record: WorkerRecord) -> None:
        key = subjects.worker_key(record.endpoint_id, record.worker_id)
        await self.bus.bucket(subjects.BUCKET_WORKERS).put(key, msgspec.json.encode(record))
        desk = self.router.board.desks[record.endpoint_id]
        await until(lambda: (w := desk.fleet.workers.get(record.worker_id)) is not None and w.record == record)

    async def beat(self, record: WorkerRecord, state: WorkerState = WorkerState.READY, **fields: Any) -> None:
        """The worker speaks."""
        for name in ("url", "perf", "slots"):
            fields.setdefault(name, getattr(record, name))
        beat = Heartbeat(
            worker_id=record.worker_id,
            endpoint_id=record.endpoint_id,
            group_id=record.group_id,
            boot=fields.pop("boot", "b1"),
            seq=next(self.seq),
            sent_at=time.time(),
            state=state,
            **fields,
        )
        await self.bus.publish(subjects.heartbeat(record.endpoint_id, record.worker_id), msgspec.json.encode(beat))

    async def everything_stored(self) -> dict[str, tuple[bytes, int]]:
        """All of what the admin API may write, to see that nothing changed."""
        found = {}
        for name in (subjects.BUCKET_ENDPOINTS, subjects.BUCKET_KEYS, subjects.BUCKET_TEMPLATES):
            for entry in await self.bus.bucket(name).all():
                found[f"{name}/{entry.key}"] = (entry.data, entry.revision)
        return found


@contextlib.asynccontextmanager
async def running(router: Router) -> AsyncIterator[Listener]:
    """The router and its listener, as __main__ runs them."""
    listener = Listener(router)
    tasks = [asyncio.create_task(listener.run()), asyncio.create_task(router.run())]
    try:
        async with asyncio.timeout(DEADLINE_S):
            ready = asyncio.create_task(listener.listening.wait())
            await asyncio.wait({*tasks, ready}, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
        await until(lambda: router.feeds.synced)
        yield listener
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def settings(keys_dir: Path, **fields: Any) -> RouterSettings:
    fields.setdefault("admin_key_sha256", hashlib.sha256(ADMIN_KEY.encode()).hexdigest())
    return RouterSettings(port=0, keys_dir=str(keys_dir), **fields)
