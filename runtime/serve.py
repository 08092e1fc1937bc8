"""Run services until somebody says stop.

Shutdown order: services are stopped one after the other, in the order they were given. Put first what takes in work (a
listener), last what others need (the bus). Each is cancelled and has `grace_s` to finish what it has; then it is left behind. A second
signal ends all at once. The first service that fails stops the others in the same order, and its error is raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol

import structlog

from .errors import CorralError

log = structlog.get_logger()


class Service(Protocol):
    async def run(self) -> None:
        """Until cancelled. Nothing that it started outlives it."""
        ...


async def serve(*services: Service, grace_s: float = 20.0) -> None:
    """Run services until SIGTERM or SIGINT, until one fails, or until all have returned.

    Raises the error of the service that failed; an ExceptionGroup when several did.
    """
    with _stop_signals() as stop:
        tasks = [asyncio.create_task(service.run(), name=type(service).__name__) for service in services]
        stopped = asyncio.create_task(stop.wait(), name="wait for a signal")
        try:
            await _until_stop(tasks, stopped)
        finally:
            stop.clear()
            stopped.cancel()
            for task in tasks:
                await _stop_one(task, stop, grace_s)
    errors = [error for task in tasks if (error := _error_of(task)) is not None]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise BaseExceptionGroup("several services failed", errors)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """The body of a `__main__`: run it on the fastest loop there is; an error made for people ends the process with status 1."""
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(main())
    except CorralError as error:
        log.critical("stopped_by_error", error=error.message, hint=error.hint, kind=type(error).__name__)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


async def _until_stop(tasks: list[asyncio.Task[None]], stopped: asyncio.Task[bool]) -> None:
    pending: set[asyncio.Task[Any]] = set(tasks)
    while pending and not stopped.done():
        done, _ = await asyncio.wait({*pending, stopped}, return_when=asyncio.FIRST_COMPLETED)
        pending -= done
        failed = [task for task in done if task is not stopped and _error_of(task) is not None]
        if failed:
            log.error("service_failed", service=failed[0].get_name())
            return
    log.info("stopping", reason="signal" if stopped.done() else "all services have returned")


async def _stop_one(task: asyncio.Task[None], hurry: asyncio.Event, grace_s: float) -> None:
    if task.done():
        return
    task.cancel()
    hurried = asyncio.create_task(hurry.wait())
    try:
        await asyncio.wait({task, hurried}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        hurried.cancel()
    if task.done():
        log.info("service_stopped", service=task.get_name())
    else:
        log.error("service_left_behind", service=task.get_name(), grace_s=grace_s)


def _error_of(task: asyncio.Task[Any]) -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None


@contextlib.contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
