"""python -m corral.demo [--json] [--keep] [--file FILE]"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from corral import Corral, CorralError
from corral.apply import manifest
from corral.errors import ConfigError

from . import closing
from .house import House
from .record import Record, Summary, summarise
from .screen import LiveScreen, PlainScreen, Screen
from .story import Scale, Story

#: Everything together, so that it ends by itself within four minutes.
DEADLINE_S = 200.0
_INTERRUPTED = "interrupted"
_EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "smollm" / "corral.yaml"


def main(
    file: Annotated[Path, typer.Option(help="Which endpoint to show; its first one is used.")] = _EXAMPLE,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON summary on stdout; the rest on stderr.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the data directory; it is kept anyway when the demo fails.")] = False,
) -> None:
    """A real language model on this machine: from zero workers to several and back, decided by events on a real NATS server."""
    console = Console(stderr=as_json, highlight=False)
    raise typer.Exit(asyncio.run(demo(file, console, as_json=as_json, keep=keep)))


async def demo(file: Path, console: Console, *, as_json: bool, keep: bool) -> int:
    """The exit status."""
    wanted = _wanted(file, console)
    if wanted is None:
        return 1
    screen: Screen = LiveScreen(console) if console.is_terminal and not as_json else PlainScreen(console)
    house, record, began = House(), Record(), time.monotonic()
    broken = ""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        with screen:
            try:
                async with asyncio.timeout(DEADLINE_S):
                    await _tell(house, wanted, screen, record, began)
            except CorralError as error:
                broken = str(error)
            except TimeoutError:
                broken = f"it did not end within {DEADLINE_S:.0f} s"
            except asyncio.CancelledError:
                task.uncancel()  # heard; what follows is the tidying up
                broken = _INTERRUPTED
            screen.phase("stopping: workers go cold, then the control plane ends")
            words = ""
            summary = summarise(record, time.monotonic() - began, broken)
            await house.stop()
            if not summary.ok and broken != _INTERRUPTED:
                words = house.last_words()
                keep = True
    finally:
        if not keep:
            house.clean()
    _close(console, summary, words, house.root if keep else None, as_json=as_json)
    return 0 if summary.ok else 130 if broken == _INTERRUPTED else 1


async def _tell(house: House, wanted: manifest.Manifest, screen: Screen, record: Record, began: float) -> None:
    screen.phase("corral up: NATS, router, scaler, provisioner")
    running = await house.start()
    screen.note(f"running at {running.url}")
    async with Corral(running.url, house.admin_key()) as corral:
        await Story(corral, wanted, Scale(), screen, record, began=began).tell()


def _wanted(file: Path, console: Console) -> manifest.Manifest | None:
    try:
        try:
            text = file.read_text()
        except OSError as error:
            raise ConfigError(f"cannot read {file}: {error.strerror}", "run it in a checkout, or pass --file") from error
        wanted = manifest.read([(str(file), str(file.resolve().parent), text)], os.environ)
        if not wanted.endpoints:
            raise ConfigError(f"{file} describes no endpoint", "pass another --file")
        return wanted
    except CorralError as error:
        console.print(f"demo: failed: {error}", markup=False, soft_wrap=True)
        return None


def _close(console: Console, summary: Summary, words: str, kept: Path | None, *, as_json: bool) -> None:
    if words:
        console.print(words, markup=False, soft_wrap=True)
    closing.show(console, summary)
    if kept is not None:
        console.print(f"kept: {kept}", markup=False, soft_wrap=True)
    if as_json:
        sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    typer.run(main)
