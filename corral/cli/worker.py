"""`corral worker ...`"""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path
from typing import Annotated

import typer

from corral.datadir import locate
from corral.errors import ConfigError

from . import show
from .command import Session, command
from .endpoint import WORKER_COLUMNS, workers_rows

WorkerId = Annotated[str, typer.Argument(help="The worker's id, such as w123.", show_default=False)]
_FOLLOW_S = 0.3
_TAIL_BYTES = 1024 * 1024


def add(app: typer.Typer) -> None:
    nouns = typer.Typer(help="The machines that serve.", no_args_is_help=True)
    command(nouns, "list", aliases=("ls",))(list_all)
    command(nouns, "get", aliases=("show",))(get)
    command(nouns, "drain")(drain)
    command(nouns, "start")(start)
    command(nouns, "reboot")(reboot)
    command(nouns, "destroy", aliases=("rm",))(destroy)
    command(nouns, "logs")(logs)
    command(nouns, "enroll")(enroll)
    app.add_typer(nouns, name="worker")
    app.add_typer(nouns, name="workers", hidden=True)


async def list_all(
    session: Session, endpoint: Annotated[str | None, typer.Option("--endpoint", "-e", help="Only of this endpoint.")] = None
) -> None:
    """Workers and what they do."""
    found = await (await session.corral()).admin.workers(endpoint)
    session.show.table(workers_rows(found), WORKER_COLUMNS, raw=found, empty="no workers")


async def get(session: Session, worker_id: WorkerId) -> None:
    """Everything that is known of one worker."""
    worker = await (await session.corral()).admin.worker(worker_id)
    failure = worker.get("failure") or {}
    told = {key: value for key, value in worker.items() if key not in {"failure", "worker_id"}}
    told |= {"state": show.state(worker["state"]), "state_at": show.ago(worker.get("state_at"))}
    told |= {"created_at": show.ago(worker.get("created_at")), "ready_at": show.ago(worker.get("ready_at"))}
    if failure:
        told["failure"] = f"{failure['cause']}: {failure.get('message', '')}"
    session.show.record(told, raw=worker)
    if failure.get("log_tail") and not session.show.as_json:
        session.show.out.print("\nits last words:", style="bold")
        session.show.out.print(failure["log_tail"], markup=False)


async def drain(session: Session, worker_id: WorkerId) -> None:
    """No new requests; what it has is finished, then it goes cold."""
    await _order(session, worker_id, "drain", "finishes what it has and goes cold")


async def start(session: Session, worker_id: WorkerId) -> None:
    """Bring a cold worker back."""
    await _order(session, worker_id, "start", "is started")


async def reboot(session: Session, worker_id: WorkerId) -> None:
    """Stop and start again."""
    await _order(session, worker_id, "reboot", "is rebooted")


async def destroy(
    session: Session, worker_id: WorkerId, *, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False
) -> None:
    """Give the machine back; its disk is lost."""
    if not yes and not session.show.as_json:
        typer.confirm(f"destroy worker {worker_id}?", abort=True, err=True)
    await _order(session, worker_id, "destroy", "is destroyed")


async def _order(session: Session, worker_id: str, what: str, said: str) -> None:
    answer = await (await session.corral()).admin.order(worker_id, what)
    session.show.done(f"worker {worker_id} {said} (command {answer['command_id']})", **answer)


async def logs(
    session: Session,
    worker_id: WorkerId,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines are written.")] = False,
    tail: Annotated[int, typer.Option("--tail", "-n", min=0, help="Begin with this many last lines.")] = 100,
) -> None:
    """What a local worker printed. For a failed one elsewhere: its last words, as `worker get` shows them."""
    path = locate(session.data_dir).worker_log(worker_id)
    if not path.is_file():
        worker = await (await session.corral()).admin.worker(worker_id)
        words = (worker.get("failure") or {}).get("log_tail")
        if not words:
            raise ConfigError(f"worker {worker_id} keeps no log on this machine", "look on its host, or pass --data-dir")
        session.show.out.print(words, markup=False)
        return
    offset = _print_tail(path, tail)
    while follow:
        await asyncio.sleep(_FOLLOW_S)
        offset = _print_from(path, offset)


def _print_tail(path: Path, lines: int) -> int:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - _TAIL_BYTES, 0))
        for line in deque(file, maxlen=lines):
            print(line.decode("utf-8", "replace"), end="")
        return file.tell()


def _print_from(path: Path, offset: int) -> int:
    with path.open("rb") as file:
        if file.seek(0, 2) < offset:
            offset = 0  # it was rotated: a new file
        file.seek(offset)
        print(file.read().decode("utf-8", "replace"), end="", flush=True)
        return file.tell()


async def enroll(
    session: Session,
    endpoint: Annotated[str, typer.Argument(help="The endpoint it will serve.", show_default=False)],
    group: Annotated[
        str | None, typer.Argument(help="The group's name or number; default: the only one.", show_default=False)
    ] = None,
    worker_url: Annotated[
        str, typer.Option("--worker-url", help="Where clients will reach it, when that is known already.")
    ] = "",
) -> None:
    """Bring your own machine: make an id and a token for a PyWorker on it."""
    answer = await (await session.corral()).admin.enroll(endpoint, group, worker_url)
    if session.show.as_json:
        session.show.json({"worker_id": answer["worker_id"], "token": answer["token"]})
        return
    session.show.done(f"worker {answer['worker_id']} may join endpoint {endpoint}")
    session.show.note("Start the PyWorker there with this in its environment. It is a secret and is shown only now:")
    print(f"CORRAL_WORKER_TOKEN={answer['token']}")
