"""The provider "process".

    create   ports, GPU, files, then the process     stop     SIGTERM, patience, SIGKILL; the files stay: cold
    start    the same files, a new process           destroy  stop, then the files go too

Between two awaits everything is synchronous, so the watcher never sees half a step.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec
import structlog

from provisioner.bundles import Bundles
from provisioner.provider import (
    LOG_TAIL_BYTES,
    Machine,
    MachineState,
    Offer,
    Order,
    Permanent,
    ProviderError,
    Transient,
    host_lost,
)
from schemas.ids import WorkerId
from schemas.reasons import Cause

from . import gpus, ports, proc
from .files import HOT, Folder, ProcessState, Saved
from .gpus import Gpu
from .runner import ProcessSettings, Runner

log = structlog.get_logger()

_MACHINE_STATE = {
    ProcessState.CREATING: MachineState.CREATING,
    ProcessState.RUNNING: MachineState.RUNNING,
    ProcessState.STOPPING: MachineState.RUNNING,
    ProcessState.STOPPED: MachineState.STOPPED,
    ProcessState.EXITED: MachineState.EXITED,
    ProcessState.DESTROYING: MachineState.DESTROYING,
}
_UPKEEP_EVERY_S = 5.0


@contextmanager
def _disk_may_fail() -> Iterator[None]:
    """A full disk is no reason to give a worker up: tried again like any other trouble of a provider."""
    try:
        yield
    except OSError as error:
        raise Transient(
            Cause.RENT_FAILED,
            f"the state directory cannot be used: {error.strerror or error}",
            hint="is the disk full, or PROVISIONER_STATE_DIR not ours?",
        ) from error


class ProcessProvider:
    """Workers as local processes. One instance per state directory (see Folder.locked)."""

    name = "process"
    preemption_notice_s: float | None = None

    def __init__(
        self,
        *,
        folder: Folder,
        settings: ProcessSettings,
        bundles: Bundles,
        now: Callable[[], float],
        environ: Mapping[str, str],
        gpus_here: Callable[[], Sequence[Gpu]] = gpus.inventory,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._now = now
        self._gpus_here = gpus_here
        self._runner = Runner(
            folder=folder,
            settings=settings,
            bundles=bundles,
            now=now,
            environ=environ,
            has_gpus=lambda: bool(self._gpus_here()),
        )
        self._changed = asyncio.Event()  #: something was launched: the watcher has one more to follow

    async def offers(self, order: Order) -> Sequence[Offer]:
        hot = [saved for saved in self._all() if saved.state in HOT]
        room = self._settings.max_workers - len(hot)
        if order.template.gpus == 0:
            return (Offer(provider=self.name, count=room, host=self._settings.host),) if room > 0 else ()
        free = gpus.choose(self._gpus_here(), _taken(hot), order.template.gpus, order.gpu_ram_gb)
        if room <= 0 or free is None:
            return ()
        return (
            Offer(
                provider=self.name,
                count=1,
                host=self._settings.host,
                gpu_name=free[0].name,
                num_gpus=len(free),
                gpu_ram_gb=free[0].memory_gb,
            ),
        )

    async def create(self, order: Order) -> Machine:
        with _disk_may_fail():
            return self._create(order)

    async def start(self, worker_id: WorkerId) -> Machine:
        with _disk_may_fail():
            return await self._start(worker_id)

    async def stop(self, worker_id: WorkerId) -> Machine:
        with _disk_may_fail():
            saved = self._runner.observe(self._must_read(worker_id))
            if saved.state is not ProcessState.STOPPED:
                saved = await self._runner.end(saved, ProcessState.STOPPED)
            return self._machine(saved)

    async def destroy(self, worker_id: WorkerId) -> str:
        with _disk_may_fail():
            saved = self._read(worker_id)
            tail = ""
            if saved is not None:
                tail = self._runner.log_tail(await self._runner.end(saved, ProcessState.DESTROYING))
            self._folder.remove(worker_id)
            return tail

    async def inventory(self) -> Sequence[Machine]:
        with _disk_may_fail():
            return [self._machine(self._runner.observe(saved)) for saved in self._all()]

    async def describe(self, worker_id: WorkerId) -> Machine | None:
        with _disk_may_fail():
            saved = self._read(worker_id)
            return None if saved is None else self._machine(self._runner.observe(saved))

    async def log_tail(self, worker_id: WorkerId, limit_bytes: int = LOG_TAIL_BYTES) -> str:
        saved = self._read(worker_id)
        return "" if saved is None else self._runner.log_tail(saved, limit_bytes)

    async def stop_all(self) -> list[Machine]:
        """Every running worker to cold, all at once; for the end of a session on one machine. One that cannot be stopped is
        logged and does not keep the others.
        """
        stopped: list[Machine] = []

        async def stop(worker_id: WorkerId) -> None:
            try:
                stopped.append(await self.stop(worker_id))
            except ProviderError as error:
                log.error("worker_not_stopped", worker=worker_id, error=error.message)  # noqa: TRY400 - the error says it all

        async with asyncio.TaskGroup() as tasks:
            for saved in self._all():
                if saved.state in HOT:
                    tasks.create_task(stop(saved.worker_id))
        return stopped

    async def watch(self, changed: Callable[[WorkerId], None]) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_up(), name="upkeep of local workers")
            following: set[tuple[int, str]] = set()
            while True:
                self._changed.clear()
                for saved in self._all():
                    process = (saved.pid, saved.birth)
                    if saved.state is ProcessState.RUNNING and process not in following:
                        following.add(process)
                        task = tasks.create_task(self._follow(saved, changed), name=f"follow {saved.worker_id}")
                        task.add_done_callback(lambda _, process=process: following.discard(process))  # type: ignore[misc]
                await self._changed.wait()

    def _create(self, order: Order) -> Machine:
        saved = self._read(order.worker_id)
        if saved is not None and saved.state is not ProcessState.CREATING:
            return self._machine(self._runner.observe(saved))
        if saved is not None:
            return self._machine(self._followed(self._runner.resume(saved)))
        self._require_room(order.worker_id)
        self._folder.of(order.worker_id).mkdir(exist_ok=True, mode=0o700)
        saved = Saved(
            worker_id=order.worker_id,
            endpoint_id=order.endpoint_id,
            group_id=order.group_id,
            command_id=order.command_id,
            template=order.template,
            state=ProcessState.CREATING,
            ports=self._runner.free_ports(order.worker_id),
            master_token=secrets.token_hex(16),
            endpoint_name=order.endpoint_name,
            revision=order.revision,
            gpu_ram_gb=order.gpu_ram_gb,
            created_at=self._now(),
        )
        try:
            return self._machine(self._followed(self._runner.launch(self._with_gpus(saved))))
        except Permanent:
            self._folder.remove(order.worker_id)
            raise

    async def _start(self, worker_id: WorkerId) -> Machine:
        saved = self._runner.observe(self._must_read(worker_id))
        match saved.state:
            case ProcessState.RUNNING:
                return self._machine(saved)
            case ProcessState.CREATING:
                return self._machine(self._followed(self._runner.resume(saved)))
            case ProcessState.STOPPING | ProcessState.DESTROYING:
                saved = await self._runner.end(saved, ProcessState.STOPPED)
            case _:
                pass
        self._require_room(worker_id)
        saved = self._with_gpus(msgspec.structs.replace(saved, port_retries=0))
        if not ports.are_free(saved.ports):
            saved = msgspec.structs.replace(saved, ports=self._runner.free_ports(worker_id))
        try:
            return self._machine(self._followed(self._runner.launch(saved)))
        except Permanent:
            self._folder.write(msgspec.structs.replace(saved, state=ProcessState.STOPPED, gpus=(), gpu_name=""))
            raise

    async def _follow(self, saved: Saved, changed: Callable[[WorkerId], None]) -> None:
        await proc.ended(saved.pid, saved.birth)
        after = self._read(saved.worker_id)
        if after is None or (after.pid, after.birth) != (saved.pid, saved.birth) or after.state is not ProcessState.RUNNING:
            return  # it was ended on purpose, by somebody who goes on from here
        try:
            self._runner.observe(after)
        except OSError as error:
            log.warning("worker_exit_not_written", worker=saved.worker_id, error=str(error))
        self._changed.set()
        changed(saved.worker_id)

    async def _keep_up(self) -> None:
        while True:
            for saved in self._all():
                if saved.state in HOT:
                    try:
                        self._runner.upkeep(saved)
                    except OSError as error:
                        log.warning("worker_upkeep_failed", worker=saved.worker_id, error=str(error))
            await asyncio.sleep(_UPKEEP_EVERY_S)

    def _followed(self, saved: Saved) -> Saved:
        self._changed.set()
        return saved

    def _require_room(self, worker_id: WorkerId) -> None:
        hot = [saved for saved in self._all() if saved.state in HOT and saved.worker_id != worker_id]
        if len(hot) >= self._settings.max_workers:
            raise Permanent(
                Cause.NO_OFFER,
                f"{len(hot)} workers run on this machine and no more are allowed",
                hint="raise PROVISIONER_PROCESS_MAX_WORKERS or lower max_workers of an endpoint",
            )

    def _with_gpus(self, saved: Saved) -> Saved:
        wanted = saved.template.gpus
        taken = _taken([other for other in self._all() if other.state in HOT and other.worker_id != saved.worker_id])
        chosen = gpus.choose(self._gpus_here() if wanted else (), taken, wanted, saved.gpu_ram_gb)
        if chosen is None:
            raise Permanent(
                Cause.NO_OFFER,
                f"this machine has no {wanted} free GPU{'s' if wanted > 1 else ''} for it",
                hint="nvidia-smi shows what NVML sees; GPUs belong to one worker at a time",
            )
        return msgspec.structs.replace(saved, gpus=tuple(gpu.index for gpu in chosen), gpu_name=chosen[0].name if chosen else "")

    def _all(self) -> list[Saved]:
        return [saved for worker_id in self._folder.worker_ids() if (saved := self._read(worker_id)) is not None]

    def _read(self, worker_id: WorkerId) -> Saved | None:
        try:
            return self._folder.read(worker_id)
        except msgspec.DecodeError:
            ended = self._runner.end_unknown(worker_id)
            aside = self._folder.set_aside(worker_id)
            log.exception("worker_file_damaged", worker=worker_id, kept_as=str(aside), ended=ended)
            return None

    def _must_read(self, worker_id: WorkerId) -> Saved:
        saved = self._read(worker_id)
        if saved is None:
            raise host_lost(self.name, worker_id)
        return saved

    def _machine(self, saved: Saved) -> Machine:
        return Machine(
            worker_id=saved.worker_id,
            endpoint_id=saved.endpoint_id,
            group_id=saved.group_id,
            command_id=saved.command_id,
            state=_MACHINE_STATE[saved.state],
            provider_ref=f"pid:{saved.pid}" if saved.pid else os.fspath(self._folder.of(saved.worker_id).name),
            template=saved.template,
            revision=saved.revision,
            url=f"http://{self._settings.public_host}:{saved.ports.worker}",
            host=self._settings.host,
            gpu_name=saved.gpu_name,
            num_gpus=saved.template.gpus,
            created_at=saved.created_at,
            started_at=saved.started_at,
            starts=saved.starts,
            mtoken_sha256=hashlib.sha256(saved.master_token.encode()).hexdigest(),
            failure=saved.failure,
        )


def _taken(hot: Sequence[Saved]) -> set[int]:
    return {index for saved in hot for index in saved.gpus}
