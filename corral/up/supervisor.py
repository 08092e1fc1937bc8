"""`corral up`: start the control plane in order, keep it alive, stop it in order.

lock the data directory -> keys, ports -> nats (and its streams) -> router, scaler, provisioner -> run.json, "ready"
SIGTERM or Ctrl-C       -> router -> scaler -> provisioner (workers go cold) -> nats       (a second time: at once)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec

from corral import __version__
from corral.datadir import DataDir, RunInfo
from corral.errors import StartError

from . import bus as buses
from . import house, kept, ports
from .child import Child, Spec
from .lock import Lock, make_private
from .log import BoundedLog
from .progress import Progress

T = TypeVar("T")

READY_DEADLINE_S = 60.0
NATS_PORT = 4222
_POLL_S = 0.05


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What `corral up` was told. `nats_url` set: use that server, with the credentials in `creds`."""

    data: DataDir
    host: str = "127.0.0.1"
    port: int = 8080  #: 0: any free one
    nats_port: int = 0  #: 0: the one of last time, or any free one
    nats_url: str = ""
    creds: Path | None = None
    log_level: str = "info"


class _Stopped(Exception):
    """Asked to end while starting."""


class Supervisor:
    """`run()` returns after an orderly stop; raises StartError when it cannot start."""

    def __init__(self, options: Options, progress: Progress, environ: Mapping[str, str]) -> None:
        self._options = options
        self._data = options.data
        self._progress = progress
        self._environ = environ
        self._children: dict[str, Child] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._logs: list[BoundedLog] = []
        self._stop = asyncio.Event()
        self._started_at = time.time()
        self._info: RunInfo | None = None
        self._server_pid: int | None = None

    async def run(self) -> None:
        with Lock(self._data), _signals(self._on_signal):
            try:
                with self._progress, contextlib.suppress(_Stopped):
                    await self._start()
                    self._announce()
                await self._until(self._stop.wait())
            except _Stopped:
                pass
            finally:
                await self._shut_down()

    # --- starting -------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        options = self._options
        port = options.port or ports.free(options.host)
        ports.require(options.host, port, "--port")
        make_private(self._data.logs)
        plan = house.Plan(
            data=self._data,
            host=options.host,
            port=port,
            installation=kept.installation(self._data),
            admin_key_sha256=kept.digest(kept.admin_key(self._data)),
            log_level=options.log_level,
        )
        self._progress.step("NATS: server, keys and streams")
        bus = await self._bus(plan)
        for room in house.ROOMS:
            self._keep(house.room_spec(room, plan, bus, self._environ, os.getpid()))
        self._info = RunInfo(
            url=plan.url,
            nats_url=bus.url,
            pids={},
            ports={"router": port, "nats": urlsplit(bus.url.partition(",")[0]).port or NATS_PORT},
            started_at=self._started_at,
            data_dir=str(self._data.root),
            admin_key_file=str(self._data.admin_key),
            version=__version__,
        )
        self._progress.step("router, scaler and provisioner")
        await self._until(self._answers(f"{plan.url}/readyz"))
        for child in self._children.values():
            child.settled = True
        self._write_run_json()

    async def _bus(self, plan: house.Plan) -> house.Bus:
        options = self._options
        if options.nats_url:
            bus = buses.existing(options.nats_url, options.creds)
            migrate = house.migrate_spec(plan, bus, self._environ, os.getpid())
            await self._until(self._once(migrate))
            return bus
        keeper = self._keep(house.bus_spec(plan, self._environ, os.getpid(), nats_port=options.nats_port or None))
        return buses.embedded(self._data, await self._until(keeper.said(buses.READY_EVENT)))

    def _keep(self, spec: Spec) -> Child:
        log = BoundedLog(self._data.logs / f"{spec.name}.log")
        self._logs.append(log)
        child = Child(spec, log, self._on_change, self._on_event)
        self._children[spec.name] = child
        self._tasks[spec.name] = asyncio.create_task(child.run(), name=spec.name)
        return child

    async def _once(self, spec: Spec) -> None:
        """Run something to its end. Raises StartError when it fails."""
        log = BoundedLog(self._data.logs / f"{spec.name}.log")
        try:
            await Child(spec, log, lambda _child: None).run_once()
        finally:
            log.close()

    async def _answers(self, url: str) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0)) as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                    async with session.get(url) as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(_POLL_S)

    async def _until(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for it, unless we are to stop, or a process turns out hopeless. Raises _Stopped, StartError."""
        waiting = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stop.wait())
        limit = None if self._info is not None and self._ready else READY_DEADLINE_S
        try:
            await asyncio.wait({waiting, stop, *self._tasks.values()}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            for task in self._tasks.values():
                if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                    raise error
            if waiting.done():
                return waiting.result()
            if self._stop.is_set():
                raise _Stopped
            raise StartError(
                f"not ready within {READY_DEADLINE_S:.0f} s: {', '.join(self._tasks) or 'nothing'} started",
                f"see the logs in {self._data.logs}",
            )
        finally:
            for future in (waiting, stop):
                future.cancel()
            await asyncio.gather(waiting, stop, return_exceptions=True)

    @property
    def _ready(self) -> bool:
        return bool(self._children) and all(child.settled for child in self._children.values())

    # --- running --------------------------------------------------------------------------------------------------

    def _announce(self) -> None:
        info = self._info
        assert info is not None
        self._progress.fact("ready", **msgspec.to_builtins(info))
        self._progress.say(f"[bold green]corral is up[/]  {info.url}")
        self._progress.say(f"  admin key  {info.admin_key_file}")
        self._progress.say(f"  NATS       {info.nats_url}")
        self._progress.say(f"  logs       {self._data.logs}")
        self._progress.say("  next       corral apply -f corral.yaml    (Ctrl-C stops; workers go cold and are remembered)")

    def _on_change(self, child: Child) -> None:
        if child.pid is None:
            self._progress.loud(
                f"{child.spec.name} ended ({child.ended}); it is started again. Log: {child.log.path}", room=child.spec.name
            )
        elif child.settled:
            self._progress.loud(f"{child.spec.name} runs again, pid {child.pid}", room=child.spec.name)
            self._write_run_json()

    def _on_event(self, child: Child, said: Mapping[str, Any]) -> None:
        if "server_pid" in said and said["server_pid"] != self._server_pid:
            again = self._server_pid is not None
            self._server_pid = said["server_pid"]
            if again:
                self._progress.loud(
                    f"nats-server ended and runs again, pid {self._server_pid}. Log: {child.log.path}", room="nats"
                )
                self._write_run_json()

    def _write_run_json(self) -> None:
        if self._info is None:
            return
        pids = {name: child.pid for name, child in self._children.items() if child.pid is not None}
        if self._server_pid is not None:
            pids |= {"nats_keeper": pids.get(house.BUS, 0), house.BUS: self._server_pid}
        self._info = msgspec.structs.replace(self._info, pids={"up": os.getpid(), **pids})
        kept.write_private(self._data.run_json, msgspec.json.encode(self._info).decode())

    # --- stopping -------------------------------------------------------------------------------------------------

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._progress.loud("stopping at once; workers may be left running until the next start")
            for child in self._children.values():
                child.kill()
        self._stop.set()

    async def _shut_down(self) -> None:
        self._data.run_json.unlink(missing_ok=True)
        for name in (*house.ROOMS, house.BUS):
            child = self._children.get(name)
            if child is None:
                continue
            self._progress.say(f"[dim]stopping {name}[/]")
            if not await child.stop():
                self._progress.loud(f"{name} did not stop within {child.spec.stop_timeout_s:.0f} s and was killed", room=name)
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for log in self._logs:
            log.close()
        self._progress.fact("stopped")


@contextlib.contextmanager
def _signals(handler: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    watched = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup means it
        watched.append(signal.SIGHUP)  # the terminal was closed
    for number in watched:
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in watched:
            loop.remove_signal_handler(number)
