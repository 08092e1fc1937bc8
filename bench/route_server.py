"""The servers of bench.route, each a process of its own: prints its port, serves until its stdin closes.

python -m bench.route_server bare                 aiohttp's Application with a constant reply, on asyncio's own loop
python -m bench.route_server route DIR WORKERS    the real router with so many ready workers that beat once a second
python -m bench.route_server still DIR WORKERS    the same without heartbeats: what a pick alone costs
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time

import msgspec
import uvloop
from aiohttp import web

from bench.quiet_bus import QuietBus
from router.listener import Listener
from router.service import Router
from router.settings import RouterSettings
from runtime import logs
from runtime.bus import Message
from schemas import codec, subjects
from schemas.ids import EndpointId, GroupId, WorkerId
from schemas.records import EndpointRecord, Template, WorkerGroup, WorkerRecord
from schemas.signals import Heartbeat
from schemas.states import WorkerState

KEY = "bench-key"
ENDPOINT = EndpointId(1)
GROUP = GroupId(2)
NAME = "bench"
PERF = 100_000.0
SLOTS = 256
CONSTANT = msgspec.json.encode({"constant": "x" * 386})


async def bare() -> None:
    async def answer(_request):
        return web.Response(body=CONSTANT, content_type="application/json")

    app = web.Application()
    app.router.add_post("/route/", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    await until_stdin_closes(runner.addresses[0][1])


async def route(directory: str, workers: int, *, beating: bool) -> None:
    # Without reports promises pile up: a still worker must be able to hold them.
    slots = SLOTS if beating else 10**6
    records = [
        WorkerRecord(
            worker_id=WorkerId(f"w{n}"),
            endpoint_id=ENDPOINT,
            group_id=GROUP,
            state=WorkerState.READY,
            url=f"http://10.0.{n // 250}.{n % 250}:8000",
            perf=PERF,
            slots=slots,
            boot="b",
        )
        for n in range(1, workers + 1)
    ]
    group = WorkerGroup(id=GROUP, template=Template(name="t", command=("serve",)))
    endpoint = EndpointRecord(id=ENDPOINT, name=NAME, groups=(group,))
    bus = QuietBus(
        {
            subjects.BUCKET_ENDPOINTS: {subjects.endpoint_key(ENDPOINT): codec.encode(endpoint)},
            subjects.BUCKET_WORKERS: {subjects.worker_key(ENDPOINT, r.worker_id): codec.encode(r) for r in records},
        }
    )
    settings = RouterSettings(port=0, keys_dir=directory, admin_key_sha256=hashlib.sha256(KEY.encode()).hexdigest())
    router = Router(bus=bus, settings=settings, now=time.time, monotonic=time.monotonic)
    async with asyncio.TaskGroup() as tasks:
        listener = Listener(router)
        running = [tasks.create_task(service.run()) for service in (listener, router)]
        beats = tasks.create_task(beat(router, records)) if beating else None
        await listener.listening.wait()
        for record in records:  # else it goes on beside the measurement
            router.vast.signature(record.url)
        await until_stdin_closes(listener.port)
        for task in running:
            task.cancel()
        if beats is not None:
            beats.cancel()


async def beat(router: Router, records: list[WorkerRecord]) -> None:
    """Each worker once a second, spread over the second; it has received its share of the requests and finished them."""
    desk = router.board.desks[ENDPOINT]
    seq = 0
    chunks = [records[n::20] for n in range(20)]
    while True:
        seq += 1
        for chunk in chunks:
            for record in chunk:
                beat = Heartbeat(
                    worker_id=record.worker_id,
                    endpoint_id=ENDPOINT,
                    group_id=GROUP,
                    boot="b",
                    seq=seq,
                    sent_at=time.time(),
                    state=WorkerState.READY,
                    url=record.url,
                    perf=PERF,
                    slots=SLOTS,
                    inflight=3,
                    requests_total=desk.demand.routed // len(records) + 1,
                )
                router.feeds.heartbeat(Message(subjects.heartbeat(ENDPOINT, record.worker_id), codec.encode(beat)))
            await asyncio.sleep(0.05)


async def until_stdin_closes(port: int) -> None:
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    logs.setup("bench", "warning")
    if sys.argv[1] == "bare":
        asyncio.run(bare())
    else:
        uvloop.run(route(sys.argv[2], int(sys.argv[3]), beating=sys.argv[1] == "route"))
