"""One worker process: launch it, see how it is, end all of it.

What must survive a crash of ours is on disk before the step it announces (ports and state before the launch, state before
the signal). Only the pid can be written no earlier than after the launch; a crash between the two is found by the mark
every worker carries in its environment.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import structlog

from provisioner.bundles import Bundles
from provisioner.provider import LOG_TAIL_BYTES, Permanent, Transient
from schemas.ids import WorkerId
from schemas.reasons import Cause
from schemas.records import Failure

from . import ports, proc, verdict
from .environment import arguments, worker_environment
from .files import Folder, Ports, ProcessState, Saved, read_tail, rotate

log = structlog.get_logger()

MARK = "CORRAL_STATE_DIR"  #: in the environment of every worker process: its own directory
_KILL_PATIENCE_S = 5.0  #: for a killed process to be gone; longer only when the kernel hangs
_PORT_RETRIES = 1


class ProcessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How workers of this machine are run."""

    control_url: str
    public_host: str = "127.0.0.1"  #: under which clients reach the workers
    host: str = "local"  #: name of this machine in records
    port_span: tuple[int, int] = (20000, 29999)
    max_workers: int = 16  #: that run at once
    log_limit_bytes: int = 8 * 1024 * 1024  #: per worker; as much again for the older part
    pass_environment: tuple[str, ...] = ()  #: names that workers inherit on top of the harmless ones


class Runner:
    """The part of the provider that touches processes. Synchronous but for `end`."""

    def __init__(
        self,
        *,
        folder: Folder,
        settings: ProcessSettings,
        bundles: Bundles,
        now: Callable[[], float],
        environ: Mapping[str, str],
        has_gpus: Callable[[], bool],
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._bundles = bundles
        self._now = now
        self._environ = environ
        self._has_gpus = has_gpus
        self._python = sys.executable

    def free_ports(self, worker_id: WorkerId, *, skip: int = 0) -> Ports:
        """Raises Transient(PORT_CONFLICT)."""
        taken = {port for other in self._others(worker_id) for port in ports.block_of(other.ports)}
        return ports.allocate(f"{self._folder.root}/{worker_id}", self._settings.port_span, taken, skip=skip)

    def launch(self, saved: Saved, announced: ProcessState = ProcessState.CREATING) -> Saved:
        """Start the process of a worker whose ports and GPUs are settled. `announced` is what is on disk until its pid is: CREATING
        when a command waits for it and would come again, RUNNING when nobody does.

        Raises Permanent(START_CRASH).
        """
        directory = self._folder.of(saved.worker_id)
        path = self._folder.log(saved.worker_id)
        saved = self._folder.write(
            msgspec.structs.replace(
                saved, state=announced, starts=saved.starts + 1, log_offset=_size(path), failure=None, pid=0, birth=""
            )
        )
        self.renew_bundle(saved)
        environment = worker_environment(
            saved,
            parent=self._environ,
            also=self._settings.pass_environment,
            python=self._python,
            directory=str(directory),
            bundle_path=str(self._folder.bundle(saved.worker_id)),
            control_url=self._settings.control_url,
            public_host=self._settings.public_host,
            hide_gpus=self._has_gpus(),
        )
        argv = arguments(saved, environment, self._python)
        if not argv:
            raise Permanent(
                Cause.START_CRASH,
                f"template {saved.template.name!r} has no command",
                hint="provider process runs Template.command; set it, or use a provider that runs images",
            )
        try:
            pid = proc.launch(argv, environment=environment, directory=Path(saved.template.cwd or directory), log=path)
        except OSError as error:
            what = error.filename or argv[0]
            raise Permanent(
                Cause.START_CRASH,
                f"cannot start {argv[0]!r}: {error.strerror}: {what}",
                hint="give the command as a path or a name on PATH, and cwd as an existing folder",
            ) from error
        log.info("worker_launched", worker=saved.worker_id, pid=pid, port=saved.ports.worker, start=saved.starts)
        return self._now_running(saved, pid)

    def resume(self, saved: Saved) -> Saved:
        """Of a worker that was to be launched when a provisioner died: the process if it came to that, else a launch."""
        pid = proc.leader_of(self._mark(saved.worker_id))
        return self._now_running(saved, pid) if pid is not None else self.launch(saved)

    def observe(self, saved: Saved) -> Saved:
        """How it is now. Notices an end: writes down why, and ends what the process left behind. One port conflict per start
        is mended by another try on other ports.
        """
        if saved.state is ProcessState.STOPPING and not self._alive(saved):
            return self._buried(saved, ProcessState.STOPPED, None)
        if saved.state is not ProcessState.RUNNING or self._alive(saved):
            return saved
        if not saved.pid and (pid := proc.leader_of(self._mark(saved.worker_id))) is not None:
            return self._now_running(saved, pid)  # its launcher died before it could write the pid down
        rest = proc.kill_rest(saved.pid, saved.birth, self._mark(saved.worker_id))
        failure = verdict.explain(
            proc.exit_code(saved.pid), self.log_tail(saved), ran_s=self._now() - saved.started_at, at=self._now()
        )
        log.warning("worker_exited", worker=saved.worker_id, cause=failure.cause, message=failure.message, left_behind=rest)
        if failure.cause is Cause.PORT_CONFLICT and saved.port_retries < _PORT_RETRIES:
            try:
                return self._on_other_ports(saved)
            except (Permanent, Transient) as error:
                failure = msgspec.structs.replace(failure, message=f"{failure.message}; {error.message}")
        return self._buried(saved, ProcessState.EXITED, failure)

    async def end(self, saved: Saved, then: ProcessState) -> Saved:
        """Ask politely, wait, insist; what is left of its session goes too. Afterwards nothing of it runs.

        Raises Transient(HANG) when even SIGKILL did not end it.
        """
        if saved.state is ProcessState.CREATING:
            pid = proc.leader_of(self._mark(saved.worker_id))
            saved = self._now_running(saved, pid) if pid is not None else saved
        saved = self._folder.write(
            msgspec.structs.replace(saved, state=then if then is ProcessState.DESTROYING else ProcessState.STOPPING, failure=None)
        )
        for number, patience_s in (
            (signal.SIGTERM, max(0.0, saved.template.stop_timeout_s)),
            (signal.SIGKILL, _KILL_PATIENCE_S),
        ):
            proc.signal_all(saved.pid, saved.birth, number)
            if await self._ended_within(saved, patience_s):
                break
        else:
            raise Transient(
                Cause.HANG, f"process {saved.pid} of worker {saved.worker_id} does not end on SIGKILL", retry_after_s=5
            )
        return self._buried(saved, then, None)

    def log_tail(self, saved: Saved, limit_bytes: int = LOG_TAIL_BYTES) -> str:
        """What the latest start printed last."""
        return read_tail(self._folder.log(saved.worker_id), limit_bytes, saved.log_offset)

    def renew_bundle(self, saved: Saved) -> None:
        self._folder.write_bundle(
            self._bundles.issue(
                saved.worker_id, saved.endpoint_id, saved.group_id, revision=saved.revision, endpoint_name=saved.endpoint_name
            )
        )

    def upkeep(self, saved: Saved) -> None:
        """Keep its log bounded and its credentials fresh."""
        rotate(self._folder.log(saved.worker_id), self._settings.log_limit_bytes)
        bundle = self._folder.read_bundle(saved.worker_id)
        if bundle is None or self._bundles.is_stale(bundle):
            self.renew_bundle(saved)

    def end_unknown(self, worker_id: WorkerId) -> int:
        """End all processes that carry this worker's mark, without asking; returns how many."""
        return proc.kill_rest(0, "", self._mark(worker_id))

    def _on_other_ports(self, saved: Saved) -> Saved:
        again = msgspec.structs.replace(
            saved, ports=self.free_ports(saved.worker_id, skip=saved.starts + 1), port_retries=saved.port_retries + 1
        )
        return self.launch(again, ProcessState.RUNNING)

    def _now_running(self, saved: Saved, pid: int) -> Saved:
        return self._folder.write(
            msgspec.structs.replace(
                saved, state=ProcessState.RUNNING, pid=pid, birth=proc.birth(pid), started_at=self._now(), failure=None
            )
        )

    def _buried(self, saved: Saved, state: ProcessState, failure: Failure | None) -> Saved:
        proc.kill_rest(saved.pid, saved.birth, self._mark(saved.worker_id))
        if saved.pid:
            proc.exit_code(saved.pid)  # collected, or it would stay a zombie
        return self._folder.write(
            msgspec.structs.replace(saved, state=state, pid=0, birth="", gpus=(), gpu_name="", failure=failure)
        )

    def _alive(self, saved: Saved) -> bool:
        return proc.is_alive(saved.pid, saved.birth)

    def _mark(self, worker_id: WorkerId) -> tuple[str, str]:
        return MARK, str(self._folder.of(worker_id))

    def _others(self, worker_id: WorkerId) -> list[Saved]:
        found = []
        for other in self._folder.worker_ids():
            if other != worker_id:
                try:
                    saved = self._folder.read(other)
                except msgspec.DecodeError:
                    continue  # the provider sets it aside when it lists
                if saved is not None:
                    found.append(saved)
        return found

    async def _ended_within(self, saved: Saved, patience_s: float) -> bool:
        if not self._alive(saved):
            return True
        try:
            async with asyncio.timeout(patience_s):
                await proc.ended(saved.pid, saved.birth)
        except TimeoutError:
            return False
        return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
