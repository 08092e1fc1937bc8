"""One run of a worker: the parts, how they are joined, and the order in which they end.

start   port, link, keys, model; then model_loading -> benchmarking -> does it answer where clients are sent? -> ready
end     say so (draining), finish what is in flight up to the drain timeout, close the port, end the model, last heartbeat
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import uuid
from collections.abc import AsyncIterator, Callable, Mapping

import structlog
from yarl import URL

from . import admit, benchmark, gpu, report, settings
from .backend import Backend
from .benchmark import Benchmark
from .call import Budget
from .config import WorkerConfig
from .errors import PortTaken, SettingsError
from .keys import KeyRing
from .lifecycle import IllegalMove, Life
from .link import Link
from .load import Load
from .metrics import Metrics
from .process import ModelProcess
from .pulse import Pulse
from .reach import Asking, Reach
from .replay import ReplayCache
from .routes import Routes
from .serve import Serving
from .server import Server, tls_context
from .settings import WorkerSettings
from .tend import Tender
from .upstream import ModelClient
from .verify import Verifier
from .version import VERSION
from .wire import reasons, records, signals, states

log = structlog.get_logger()

GPU_READ_S = 2.0
CLOSE_S = 1.0  #: for the last bytes of answers that are done
LAST_WORD_S = 3.0  #: how long a worker that cannot start tries to say why
#: Secrets of the worker that are none of the model's business.
_NOT_FOR_THE_MODEL = ("CORRAL_WORKER_TOKEN", "CORRAL_WORKER_BUNDLE", "PYWORKER_TLS_KEY", "MASTER_TOKEN")

_W = states.WorkerState


class Agent:
    """run() returns when the worker has left in good order. Cancelling it ends everything at once."""

    def __init__(
        self,
        config: WorkerConfig,
        own: WorkerSettings,
        *,
        environ: Mapping[str, str],
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._config = config
        self._own = own
        self._now = now
        self._monotonic = monotonic
        self._started_at = now()
        self._born = monotonic()
        self._boot = uuid.uuid4().hex[:12]
        self._seq = 0
        self._life = Life(since=self._started_at)
        self._changed = asyncio.Event()
        self._leaving = asyncio.Event()
        self._hurry = asyncio.Event()
        self._drain_timeout_s = config.drain_timeout_s
        self._bundle = own.bundle
        self._port = 0
        self._address = ""
        self._gpus = gpu.open_gpus(environ)
        self._gpu_readings: tuple[signals.GpuReading, ...] = ()
        self._tls: ssl.SSLContext | None = None
        self._fingerprint = ""
        if own.tls_cert is not None and own.tls_key is not None:
            self._tls, self._fingerprint = tls_context(own.tls_cert, own.tls_key)

        self.load = Load()
        self.keys = KeyRing(control_url=own.bundle.control_url, cache=own.state_dir / "jwks.json", monotonic=monotonic)
        self._verifier = Verifier(
            worker_id=own.bundle.worker_id,
            issuer=own.bundle.issuer,
            keys=self.keys.keys,
            replays=ReplayCache(),
            now=now,
            uptime_s=lambda: monotonic() - self._born,
        )
        self._metrics = Metrics(lambda: self._heartbeat(self._seq))
        base_url = _base_url(config, own)
        self._model = ModelClient(base_url)
        pulse = Pulse()
        self._serving = Serving(
            config=config,
            worker_id=own.bundle.worker_id,
            verifier=self._verifier,
            keys=self.keys,
            gate=admit.Gate(slots=config.slots, max_queued=config.max_queued),
            load=self.load,
            metrics=self._metrics,
            budget=Budget(each=own.max_body_bytes, together=own.max_buffered_bytes),
            model=self._model,
            pulse=pulse,
            life=lambda: self._life,
            perf=lambda: self._tender.measured.perf,
            on_trouble=self._look_at_model,
            monotonic=monotonic,
        )
        self._server = Server(
            serving=self._serving,
            routes=Routes(config.handlers),
            metrics=self._metrics,
            life=lambda: self._life,
            worker_id=own.bundle.worker_id,
            boot=self._boot,
            tls=self._tls,
        )
        self._backend = Backend(
            config,
            base_url=base_url,
            process=self._process(environ, URL(base_url).port),
            now=now,
            monotonic=monotonic,
            load=self.load,
            pulse=pulse,
        )
        self._reach = Reach(
            Asking(worker_id=own.bundle.worker_id, boot=self._boot, tls_fingerprint=self._fingerprint),
            timeout_s=config.reach_timeout_s,
            monotonic=monotonic,
        )
        self._tender = Tender(
            config,
            self._backend,
            Benchmark(
                config,
                self._model,
                key=benchmark.cache_key(config, gpus=self._gpus.names(), revision=own.bundle.revision, version=VERSION),
                cache=own.state_dir / "benchmark.json",
                now=now,
                monotonic=monotonic,
            ),
            keys_ready=self.keys.wait_ready,
            reached=lambda: self._reach.confirm(self.url, self._own.own_url(self._address, self._port)),
            life=lambda: self._life,
            set_life=self._set,
            now=now,
            monotonic=monotonic,
        )
        self._link = Link(bundle=self._fresh_bundle, heartbeat=self._next_heartbeat, on_order=self._obey)

    # --- what others ask ---------------------------------------------------------------------------------------------

    @property
    def life(self) -> Life:
        return self._life

    @property
    def url(self) -> str:
        """Where clients reach this worker; empty before the port is open."""
        return self._own.url(self._port) if self._port else ""

    async def reached(self, state: states.WorkerState) -> None:
        """Until the worker has been told to be in this state."""
        while self._life.state is not state:
            self._changed.clear()
            await self._changed.wait()

    def leave(self) -> None:
        """Drain and end; called a second time: end now."""
        if self._life.leaving:
            self._hurry.set()
            return
        self._set(self._life.drain(self._now(), leaving=True))
        self._leaving.set()

    # --- run ---------------------------------------------------------------------------------------------------------

    async def run(self, host: str | None = None) -> None:
        """Raises PortTaken, and whatever a part that must not fail failed with."""
        self._own.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            async with self._model, asyncio.TaskGroup() as group:
                link = group.create_task(self._link.run(), name="link")
                try:
                    await self._open(host)
                    # The background ends first: whoever watches the model must not see us end it and call that a failure.
                    async with self._background(group):
                        await self._leaving.wait()
                        await self._finish()
                    await self._server.close(0.0 if self.load.open else CLOSE_S)
                    await self._backend.close()
                finally:
                    link.cancel()
        finally:
            await self._server.close(0.0)
            await self._backend.close()
            self._gpus.close()
            log.info("worker_ended", served=self.load.served_total, failed=self.load.failed_total, cut=self.load.open)

    async def _open(self, host: str | None) -> None:
        try:
            self._address, self._port = await self._server.open(host or self._own.host, self._own.port)
        except PortTaken as error:
            # Said before we go: the provisioner should learn the cause, and not only that we ended.
            self._set(self._life.fail(self._failure(reasons.Cause.PORT_CONFLICT, error.message, reasons.Phase.BOOT), self._now()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORD_S):
                    await self._link.said.wait()
            raise
        log.info("worker_listens", url=self.url, version=VERSION)

    @contextlib.asynccontextmanager
    async def _background(self, group: asyncio.TaskGroup) -> AsyncIterator[None]:
        tasks = [
            group.create_task(self.keys.run(), name="keys"),
            group.create_task(self._tender.run(), name="model"),
            group.create_task(self._read_gpus(), name="gpus"),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _finish(self) -> None:
        """In-flight work goes on until it is done, the drain timeout has passed, or somebody is in a hurry."""
        log.info("worker_drains", inflight=self.load.open, timeout_s=self._drain_timeout_s)
        waits = [asyncio.create_task(self._serving.wait_idle()), asyncio.create_task(self._hurry.wait())]
        try:
            await asyncio.wait(waits, timeout=self._drain_timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
        if self.load.open:
            log.warning("drain_cut_short", inflight=self.load.open)

    # --- the model ---------------------------------------------------------------------------------------------------

    def _look_at_model(self) -> None:
        self._backend.look_now()

    def _process(self, environ: Mapping[str, str], model_port: int | None) -> ModelProcess | None:
        if not self._config.model_command:
            return None
        env = {name: value for name, value in environ.items() if name not in _NOT_FOR_THE_MODEL}
        env |= self._config.model_env | {"MODEL_PORT": str(model_port)}
        command = [part.replace("{MODEL_PORT}", str(model_port)) for part in self._config.model_command]
        return ModelProcess(command, env=env, cwd=self._config.model_cwd, state_dir=self._own.state_dir)

    # --- the control plane -------------------------------------------------------------------------------------------

    async def _obey(self, order: signals.ControlOrder) -> signals.ControlReply:
        log.info("order_received", op=order.op, reason=order.reason, deadline_s=order.deadline_s)
        message = ""
        ok = True
        if order.op == "drain":
            self._set(self._life.drain(self._now()))
        elif order.op == "undrain":
            try:
                self._set(self._life.undrain(self._now()))
            except IllegalMove as error:
                ok, message = False, str(error)
        elif order.op == "stop":
            if order.deadline_s > 0:
                self._drain_timeout_s = order.deadline_s
            if not self._life.leaving:
                self.leave()
        else:
            ok, message = False, f"unknown order {order.op!r}; this version knows drain, undrain, stop"
        return signals.ControlReply(ok=ok, state=self._life.state, inflight=self.load.open, message=message)

    def _set(self, life: Life) -> None:
        if life is self._life:
            return
        before, self._life = self._life.state, life
        if life.state is not before:
            log.info("state_changed", state=life.state, before=before)
        self._changed.set()
        self._link.kick()

    def _fresh_bundle(self) -> signals.WorkerBundle:
        """The file may hold renewed credentials. One that cannot be read right now changes nothing."""
        if self._own.bundle_path is not None:
            try:
                fresh = settings.read_bundle(self._own.bundle_path)
            except SettingsError as error:
                log.warning("bundle_unreadable", error=error.message)
            else:
                if fresh.worker_id == self._bundle.worker_id:
                    self._bundle = fresh
        return self._bundle

    def _next_heartbeat(self) -> signals.Heartbeat:
        self._seq += 1
        return self._heartbeat(self._seq)

    def _heartbeat(self, seq: int) -> signals.Heartbeat:
        return report.heartbeat(
            self._bundle,
            self._config,
            self._life,
            self.load,
            self._tender.measured,
            boot=self._boot,
            seq=seq,
            url=self.url,
            now=self._now(),
            tick=self._monotonic(),
            last_ticket_exp_at=self._verifier.last_ticket_exp_at,
            gpus=self._gpu_readings,
            tls_fingerprint=self._fingerprint,
            started_at=self._started_at,
        )

    async def _read_gpus(self) -> None:
        while isinstance(self._gpus, gpu.Gpus):
            # In a thread: NVML can stall for seconds on a sick GPU, and streams must not.
            self._gpu_readings = await asyncio.to_thread(self._gpus.read)
            await asyncio.sleep(GPU_READ_S)

    def _failure(self, cause: reasons.Cause, message: str, phase: reasons.Phase) -> records.Failure:
        return records.Failure(cause=cause, message=message, phase=phase, at=self._now())


def _base_url(config: WorkerConfig, own: WorkerSettings) -> str:
    """Raises SettingsError when nobody says where the model server listens."""
    url = (config.model_server_url or "http://127.0.0.1").rstrip("/")
    if URL(url).explicit_port is not None and config.model_server_port is None:
        return url
    port = config.model_server_port or own.model_port or (_free_port() if config.model_command else None)
    if port is None and config.model_server_url is None and config.needs_model():
        raise SettingsError(
            "MODEL_PORT is not set, and the WorkerConfig names no model server", "set MODEL_PORT, or model_server_port"
        )
    return f"{url}:{port}" if port is not None else url


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
