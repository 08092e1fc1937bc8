"""A stand-in for the router (keys and tickets), a model server that misbehaves on demand, and real workers in this process."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from cryptography import x509
from nacl.signing import SigningKey

from pyworker import HandlerConfig, Timeouts, WorkerConfig
from pyworker.agent import Agent
from schemas import ticket
from schemas.ids import EndpointId, GroupId, WorkerId
from schemas.signals import WorkerBundle
from schemas.states import WorkerState
from tests.certificates import self_signed

_numbers = itertools.count(1)


class Router:
    """Publishes keys and signs tickets, as the real one does."""

    def __init__(self) -> None:
        self.signers: dict[str, SigningKey] = {}
        self.published: list[str] = []
        self.fetches = 0
        self.url = ""
        self.rotate("k1")

    def rotate(self, kid: str, *, publish: bool = True) -> None:
        self.signers[kid] = SigningKey.generate()
        self.kid = kid
        if publish:
            self.published.append(kid)

    def jwks(self) -> bytes:
        keys = (ticket.Jwk(kid=kid, x=ticket.b64u(bytes(self.signers[kid].verify_key)).decode()) for kid in self.published)
        return msgspec.json.encode(ticket.Jwks(keys=tuple(keys)))

    def claims(self, worker_id: str = "w1", **changes: Any) -> ticket.TicketClaims:
        now = int(time.time())
        number = next(_numbers)
        values: dict[str, Any] = {
            "iss": "corral",
            "aud": worker_id,
            "ep": "echo",
            "rid": f"r{number}",
            "jti": f"t{number}",
            "reqnum": number,
            "cost": 10.0,
            "iat": now,
            "nbf": now,
            "exp": now + 60,
        }
        return ticket.TicketClaims(**(values | changes))

    def sign(self, claims: ticket.TicketClaims, *, kid: str | None = None, key: SigningKey | None = None) -> str:
        kid = kid or self.kid
        signed = ticket.signing_input(ticket.header_segment(kid), claims)
        return ticket.assemble(signed, (key or self.signers[kid]).sign(signed).signature)

    def ticket(self, worker_id: str = "w1", **changes: Any) -> str:
        return self.sign(self.claims(worker_id, **changes))

    def envelope(self, payload: Any, worker_id: str = "w1", **changes: Any) -> dict[str, Any]:
        claims = self.claims(worker_id, **changes)
        auth = {
            "endpoint": claims.ep,
            "url": "http://w",
            "cost": claims.cost,
            "reqnum": claims.reqnum,
            "request_idx": 7,
            "signature": "x",
            "ticket": self.sign(claims),
        }
        return {"auth_data": auth, "session_id": None, "payload": payload}

    async def _serve(self, request: web.Request) -> web.Response:
        self.fetches += 1
        return web.Response(body=self.jwks(), content_type="application/json")


@contextlib.asynccontextmanager
async def serving(app: web.Application, port: int = 0) -> AsyncIterator[str]:
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Model:
    """A model server whose answers a test writes itself: `model.on("/v1/x", handler)`."""

    def __init__(self) -> None:
        self.url = ""
        self.healthy = True
        self.handlers: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {}
        self.seen: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.cancelled = asyncio.Event()
        self.started = asyncio.Event()
        self.app = web.Application(client_max_size=0)
        self.app.router.add_route("*", "/{path:.*}", self._any)

    def on(self, path: str, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> None:
        self.handlers[path] = handler

    async def _any(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/health":
            return web.Response(status=200 if self.healthy else 503)
        self.seen.append(request)
        self.started.set()
        try:
            handler = self.handlers.get(request.path, self._echo)
            return await handler(request)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def _echo(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        return web.Response(body=body, content_type=request.content_type)


class Running:
    """A worker in this process."""

    def __init__(self, agent: Agent, task: asyncio.Task[None], worker_id: str) -> None:
        self.agent = agent
        self.task = task
        self.worker_id = worker_id

    @property
    def url(self) -> str:
        return self.agent.url

    async def until(self, state: WorkerState, within_s: float = 10.0) -> None:
        waits = asyncio.create_task(self.agent.reached(state))
        done, _ = await asyncio.wait({waits, self.task}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        if waits not in done:
            waits.cancel()
            if self.task in done:
                self.task.result()
            raise AssertionError(f"the worker is {self.agent.life.state} and not {state}: {self.agent.life.failure}")


NOWHERE = "nats://127.0.0.1:9"  # nobody listens there: the worker must do without


def bundle(router_url: str, *, nats_url: str = NOWHERE, worker_id: str = "w1", endpoint: int = 1, **more: Any) -> WorkerBundle:
    return WorkerBundle(
        worker_id=WorkerId(worker_id),
        endpoint_id=EndpointId(endpoint),
        group_id=GroupId(1),
        nats_urls=(nats_url,),
        nats_jwt=more.pop("nats_jwt", ""),
        nats_seed=more.pop("nats_seed", ""),
        control_url=router_url,
        **more,
    )


def environ(made: WorkerBundle, state_dir: Path, **more: str) -> dict[str, str]:
    path = state_dir / "bundle.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(made))
    return {"CORRAL_WORKER_BUNDLE": str(path), "CORRAL_STATE_DIR": str(state_dir), **more}


StartWorker = Callable[..., Awaitable[Running]]


def config_for(model: Model, *handlers: HandlerConfig, **more: Any) -> WorkerConfig:
    """A worker in front of the test's model; perf is given, so that no benchmark asks the model."""
    defaults: dict[str, Any] = {
        "model_server_url": model.url,
        "model_healthcheck_url": "/health",
        "handlers": handlers or (HandlerConfig("/*", allow_parallel_requests=True),),
        "perf": 100.0,
        "health_interval_s": 0.2,
        "timeouts": Timeouts(connect_s=1.0, first_byte_s=10.0, idle_s=10.0),
    }
    return WorkerConfig(**(defaults | more))


def certificate(folder: Path) -> tuple[Path, Path, bytes]:
    """For 127.0.0.1: the files of certificate and key, and the certificate's DER."""
    return self_signed(folder, x509.IPAddress(ipaddress.ip_address("127.0.0.1")))


def bearer(token: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", **more}


async def soon(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    """Until it is so; for things that have no event to wait for."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.01)
