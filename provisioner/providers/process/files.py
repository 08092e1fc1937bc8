"""What the process provider knows, on disk. A provisioner that was killed finds everything here again.

<state dir>/lock                       held while a provisioner uses the directory
<state dir>/workers/<wid>/instance.json   0600: who, what, which process, which ports
                         /bundle.json     0600: the worker's credentials
                         /worker.log      what it prints; worker.log.1 is the older part
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

import msgspec

from runtime.errors import CorralError
from schemas import ids
from schemas.ids import CommandId, EndpointId, GroupId, WorkerId
from schemas.records import Failure, Template
from schemas.signals import WorkerBundle

MARK_OF_DAMAGE = ".damaged"


class ProcessState(StrEnum):
    CREATING = "creating"  #: ports taken, files written, perhaps launched
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    EXITED = "exited"
    DESTROYING = "destroying"


#: States in which a worker holds a GPU and a place.
HOT = frozenset({ProcessState.CREATING, ProcessState.RUNNING, ProcessState.STOPPING})


class Ports(msgspec.Struct, frozen=True):
    worker: int  #: PyWorker; Vast's PyWorker also takes the one above it
    model: int


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """instance.json."""

    worker_id: WorkerId
    endpoint_id: EndpointId
    group_id: GroupId
    command_id: CommandId
    template: Template
    state: ProcessState
    ports: Ports
    master_token: str  #: a secret
    endpoint_name: str = ""
    revision: int = 1
    gpu_ram_gb: float | None = None
    gpus: tuple[int, ...] = ()
    gpu_name: str = ""
    pid: int = 0
    birth: str = ""  #: tells this process from a later one with the same number
    created_at: float = 0.0
    started_at: float = 0.0
    starts: int = 0
    log_offset: int = 0  #: where the log of the latest start begins
    port_retries: int = 0  #: since the latest start that somebody asked for
    failure: Failure | None = None


class DirectoryInUse(CorralError):
    """Another provisioner holds the state directory."""


_decoder = msgspec.json.Decoder(Saved)


class Folder:
    """The state directory. Writes are whole or not at all."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.workers = self.root / "workers"
        self.workers.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Raises DirectoryInUse. The kernel lets go when the provisioner dies, however it dies."""
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DirectoryInUse(
                    f"another provisioner uses {self.root}", hint="stop it, or give this one another PROVISIONER_STATE_DIR"
                ) from error
            yield
        finally:
            os.close(descriptor)

    def of(self, worker_id: WorkerId) -> Path:
        """Raises ValueError when the id could lead out of the directory."""
        return self.workers / ids.worker_id(worker_id)

    def log(self, worker_id: WorkerId) -> Path:
        return self.of(worker_id) / "worker.log"

    def bundle(self, worker_id: WorkerId) -> Path:
        return self.of(worker_id) / "bundle.json"

    def read(self, worker_id: WorkerId) -> Saved | None:
        """None when there is none. Raises msgspec.DecodeError when the file is damaged."""
        try:
            return _decoder.decode((self.of(worker_id) / "instance.json").read_bytes())
        except FileNotFoundError:
            return None

    def worker_ids(self) -> list[WorkerId]:
        """Of all workers that have a file; a directory without one never got as far as being a worker."""
        found = []
        for path in self.workers.iterdir():
            try:
                worker_id = ids.worker_id(path.name)
            except ValueError:
                continue
            if (path / "instance.json").exists():
                found.append(worker_id)
        return sorted(found)

    def write(self, saved: Saved) -> Saved:
        self.of(saved.worker_id).mkdir(exist_ok=True, mode=0o700)
        _write_whole(self.of(saved.worker_id) / "instance.json", msgspec.json.format(msgspec.json.encode(saved), indent=1))
        return saved

    def write_bundle(self, bundle: WorkerBundle) -> None:
        _write_whole(self.bundle(bundle.worker_id), msgspec.json.encode(bundle))

    def read_bundle(self, worker_id: WorkerId) -> WorkerBundle | None:
        try:
            return msgspec.json.decode(self.bundle(worker_id).read_bytes(), type=WorkerBundle)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def remove(self, worker_id: WorkerId) -> None:
        """instance.json goes last but one, so that a removal cut short is found and ended."""
        path = self.of(worker_id)
        if not path.exists():
            return
        for child in path.iterdir():
            if child.name == "instance.json":
                continue
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child, ignore_errors=True)
            else:
                child.unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)

    def set_aside(self, worker_id: WorkerId) -> Path:
        """Keep a damaged worker directory for a person to look at, out of the way."""
        aside = self.workers / f"{worker_id}{MARK_OF_DAMAGE}"
        shutil.rmtree(aside, ignore_errors=True)
        self.of(worker_id).rename(aside)
        return aside


def read_tail(path: Path, limit_bytes: int, start: int = 0) -> str:
    """The last lines of a file from `start` on, at most limit_bytes of them; broken characters are replaced."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            begin = max(start if start <= size else 0, size - limit_bytes)
            file.seek(begin)
            return file.read(limit_bytes).decode(errors="replace")
    except FileNotFoundError:
        return ""


def rotate(path: Path, limit_bytes: int) -> bool:
    """Move an overgrown log to <name>.1 and empty it in place: its writer appends and keeps its descriptor, so it needs no
    telling. A line written between the two steps is lost.
    """
    try:
        if path.stat().st_size <= limit_bytes:
            return False
    except FileNotFoundError:
        return False
    shutil.copyfile(path, path.with_name(f"{path.name}.1"))
    os.truncate(path, 0)
    return True


def _write_whole(path: Path, data: bytes) -> None:
    beside = path.with_name(f".{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
