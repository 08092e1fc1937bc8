"""A real nats-server for whoever needs one.

    async def test_something(bus_for):
        scaler = await bus_for("scaler", "s1")          # a NatsBus with that role's credentials
        worker = await bus_for("worker", "w7", endpoint=42)

- `nats_server` lives as long as the session (JWT mode, all streams made); tests share it. Keep apart by using endpoint ids of
  your own (`endpoint_id`). The work queue and its one consumer are shared, so tests that work it take a fresh server.
- `fresh_nats_server` is one test's own, with `bus_for(..., server=fresh_nats_server)`: kill it, stop it, start it.
- `bare_nats_server` has no streams yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog

from runtime import permissions, topology
from runtime.embedded import EmbeddedServer
from runtime.keyring import write_secret
from runtime.nats_bus import NatsBus, NatsSettings, open_client
from runtime.permissions import Role
from schemas.ids import EndpointId

_names = itertools.count()

# A busy machine is no fault of the code under test.
# More examples than these: CORRAL_EXAMPLES=500 make unit.
hypothesis.settings.register_profile(
    "busy",
    deadline=None,
    max_examples=int(os.environ.get("CORRAL_EXAMPLES", "100")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("busy")

# Without colours and local variables: rich's tracebacks take seconds on a busy machine.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


#: Files that take longest. They go first, or one process would be left with them when all others have nothing to do.
_LONG = (
    "tests/sim/test_world_",
    "tests/scaler/test_ensemble",
    "tests/bench/",
    "tests/system/",
    "tests/sim/",
    "tests/corral/test_up",
    "tests/packaging/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def turn(item: pytest.Item) -> int:
        return next((n for n, name in enumerate(_LONG) if item.nodeid.startswith(name)), len(_LONG))

    items.sort(key=turn)
    if not os.environ.get("CORRAL_LONG"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="make test-long runs it"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the worlds of `tests/sim` cost, whichever process played them."""
    ended = [report for reports in terminalreporter.stats.values() for report in reports if isinstance(report, pytest.TestReport)]
    told = [
        (report.nodeid, *figures)
        for report in ended
        if report.when == "call"
        for name, figures in report.user_properties
        if name == "world"
    ]
    if not told:
        return
    hours, requests, cpu_s = (sum(world[n] for world in told) for n in (1, 2, 4))
    terminalreporter.write_line(f"worlds: {hours:.1f} simulated hours with {requests} requests in {cpu_s:.1f} s of one core")
    if terminalreporter.verbosity > 0:
        for name, hours, requests, decisions, cpu_s in sorted(told, key=lambda world: -world[4]):
            text = f"  {cpu_s:6.2f} s {hours:7.2f} h {requests:6d} requests {decisions:5d} decisions  {name}"
            terminalreporter.write_line(text)


class TestServer(EmbeddedServer):
    """An embedded server that also hands out credentials."""

    __test__ = False

    def settings(
        self, role: Role | str, name: str, *, endpoint: int | None = None, expires_at: float | None = None
    ) -> NatsSettings:
        """How a participant of this role and name reaches the server."""
        tags = (permissions.worker_tag(EndpointId(endpoint)),) if endpoint is not None else ()
        path = self.directory / "creds" / f"{name}-{next(_names)}.creds"
        write_secret(path, self.keyring.mint_creds(Role(role), name, tags=tags, expires_at=expires_at))
        return NatsSettings(urls=(self.url,), creds=str(path), connect_timeout_s=10.0)

    def kill(self, sig: signal.Signals = signal.SIGKILL) -> None:
        super().kill(sig)
        if sig == signal.SIGSTOP and self.pid is not None:
            os.waitpid(self.pid, os.WUNTRACED)  # its threads stop one by one, and one of them may still answer

    async def make_topology(self) -> None:
        async with open_client(self.settings(Role.MIGRATE, "migrate")) as client:
            await topology.ensure(client)


BusFor = Callable[..., Awaitable[NatsBus]]


@contextlib.contextmanager
def _on_a_loop_of_its_own() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    try:
        yield loop
    finally:
        loop.close()


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServer]:
    server = TestServer(tmp_path_factory.mktemp("nats"))
    with _on_a_loop_of_its_own() as loop:
        loop.run_until_complete(server.start())
        try:
            loop.run_until_complete(server.make_topology())
            yield server
        finally:
            loop.run_until_complete(server.stop())
            server.close()


@pytest.fixture
async def bare_nats_server(tmp_path: Path) -> AsyncIterator[TestServer]:
    server = TestServer(tmp_path / "nats")
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
        server.close()


@pytest.fixture
async def fresh_nats_server(bare_nats_server: TestServer) -> TestServer:
    await bare_nats_server.make_topology()
    return bare_nats_server


@pytest.fixture
async def bus_for(nats_server: TestServer) -> AsyncIterator[BusFor]:
    """bus_for(role, name=..., endpoint=..., server=...) -> NatsBus, closed when the test ends. The session's server unless told."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(
            role: Role | str,
            name: str | None = None,
            *,
            endpoint: int | None = None,
            expires_at: float | None = None,
            server: TestServer | None = None,
        ) -> NatsBus:
            at = server or nats_server
            name = name or f"{Role(role)}-{next(_names)}"
            made = NatsBus(at.settings(role, name, endpoint=endpoint, expires_at=expires_at))
            stack.push_async_callback(made.close)
            await made.open()
            return made

        yield make


@pytest.fixture
async def bus(bus_for: BusFor) -> NatsBus:
    """A participant that may do everything in the control plane's account."""
    return await bus_for(Role.SCALER)


_endpoints = itertools.count(os.getpid() * 1000 + int(time.time()) % 1000)


@pytest.fixture
def endpoint_id() -> EndpointId:
    """An endpoint that no other test uses."""
    return EndpointId(next(_endpoints))
