"""A router and workers that answer as a test tells them: real HTTP, for edges that real rooms do not show on command."""

import asyncio
import contextlib
import json
import random
import socket

import hypothesis
import pytest
from aiohttp import web

from corral import Budgets, Corral, Policy

#: How long one example takes says more about the machine than about us.
hypothesis.settings.register_profile("corral", deadline=None)
hypothesis.settings.load_profile("corral")

KEY = "a-client-key"


class FakeWorker:
    """Answers each request with the next of `script` (the last one again and again): a coroutine of the request."""

    def __init__(self, worker_id, *script):
        self.worker_id = worker_id
        self.script = list(script)
        self.seen = []
        self.url = ""
        self.envelope = False  #: runs Vast's PyWorker

    async def handle(self, request):
        body = await request.read()
        self.seen.append((request.method, request.path, dict(request.headers), body))
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return await step(request)


class FakeRouter:
    """POST /route/: the first worker of `workers` that is not excluded, else "waiting"."""

    def __init__(self):
        self.workers = []
        self.asked = []
        self.problems = []  #: answers to give before any other: (status, body)
        self.waiting = {"status": "no worker yet", "wait_reason": "starting", "retry_after_s": 0.02}
        self.hold = True  #: hold the request for wait_s when there is nobody
        self.changed = asyncio.Event()
        self.url = ""
        self.reqnum = 0

    def pick(self, excluded):
        return next((worker for worker in self.workers if worker.worker_id not in excluded), None)

    async def handle(self, request):
        body = await request.json()
        self.asked.append((dict(request.headers), body))
        if self.problems:
            status, problem = self.problems.pop(0)
            return web.json_response(problem, status=status)
        index = body.get("request_idx") or 77
        worker = self.pick(body.get("exclude_workers") or ())
        if worker is None and self.hold:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(body["wait_s"]):
                    while worker is None:
                        await self.changed.wait()
                        self.changed.clear()
                        worker = self.pick(body.get("exclude_workers") or ())
        if worker is None:
            return web.json_response({"endpoint": body["endpoint"], "request_idx": index, **self.waiting})
        self.reqnum += 1
        return web.json_response(
            {
                "endpoint": body["endpoint"],
                "url": worker.url,
                "cost": body["cost"],
                "reqnum": self.reqnum,
                "request_idx": index,
                "signature": "s",
                "ticket": f"ticket-{self.reqnum}",
                "worker_id": worker.worker_id,
                "expires_at": 0,
                "group_id": 5,
                "envelope": worker.envelope,
            }
        )


async def serve(stack, handler, path="/{tail:.*}"):
    app = web.Application()
    app.router.add_route("*", path, handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"


@pytest.fixture
async def stack():
    async with contextlib.AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def router(stack):
    router = FakeRouter()
    router.url = await serve(stack, router.handle)
    return router


@pytest.fixture
def worker(stack, router):
    """Start one and put it in the router's hands."""

    async def start(worker_id, *script):
        made = FakeWorker(worker_id, *script)
        made.url = await serve(stack, made.handle)
        router.workers.append(made)
        router.changed.set()
        return made

    return start


@pytest.fixture
async def endpoint(stack, router):
    corral = await stack.enter_async_context(Corral(router.url, KEY, rng=random.Random(1)))
    return corral.endpoint(
        "llm",
        budgets=Budgets(queue_s=5, connect_s=2, first_byte_s=2, idle_s=2, total_s=10),
        policy=Policy(backoff_s=0.01, backoff_max_s=0.05),
    )


# --- things a worker may do ---------------------------------------------------------------------------------------


def says(status=200, body=None, headers=None):
    async def step(_request):
        return web.Response(
            status=status,
            body=json.dumps(body if body is not None else {"ok": True}).encode(),
            headers=headers or {},
            content_type="application/json",
        )

    return step


def refuses(status, code, headers=None):
    return says(status, {"error": code, "msg": f"because {code}", "success": False}, headers)


async def hangs(request):
    """Takes the request and never answers."""
    await asyncio.sleep(30)


async def drops(request):
    """Takes the request and closes the connection."""
    request.transport.close()
    return web.Response()


def streams(*pieces, then=None):
    async def step(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        if then is not None:
            await then(request)
        return response

    return step


async def loses_the_line(request):
    request.transport.abort()


async def falls_silent(request):
    await asyncio.sleep(30)


@contextlib.contextmanager
def deaf_listener():
    """An address whose queue of connections is full: who connects waits."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def steps():
    """The vocabulary above, because tests are no package."""
    from types import SimpleNamespace

    return SimpleNamespace(
        says=says,
        refuses=refuses,
        hangs=hangs,
        drops=drops,
        streams=streams,
        loses_the_line=loses_the_line,
        falls_silent=falls_silent,
        unused_port=unused_port,
        deaf_listener=deaf_listener,
    )
