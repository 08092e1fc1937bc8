import asyncio
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from runtime.serve import serve


class Recorder:
    """Runs until cancelled, and writes down when it starts and ends."""

    def __init__(self, name: str, diary: list[str], *, clean_up_s: float = 0.0) -> None:
        self.name, self.diary, self.clean_up_s = name, diary, clean_up_s
        self.running = asyncio.Event()

    async def run(self) -> None:
        self.diary.append(f"{self.name} starts")
        self.running.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.diary.append(f"{self.name} stops")
            await asyncio.sleep(self.clean_up_s)
            self.diary.append(f"{self.name} ends")


class Failing:
    def __init__(self, after: asyncio.Event) -> None:
        self.after = after

    async def run(self) -> None:
        await self.after.wait()
        raise RuntimeError("broken")


async def test_a_signal_stops_services_in_the_order_given():
    diary: list[str] = []
    listener, bus = Recorder("listener", diary, clean_up_s=0.02), Recorder("bus", diary)
    serving = asyncio.create_task(serve(listener, bus))
    await bus.running.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    await serving
    assert diary == ["listener starts", "bus starts", "listener stops", "listener ends", "bus stops", "bus ends"]


async def test_the_first_failure_stops_all_and_is_raised():
    diary: list[str] = []
    other = Recorder("other", diary)
    with pytest.raises(RuntimeError, match="broken"):
        await serve(other, Failing(other.running))
    assert diary[-1] == "other ends"


async def test_who_does_not_stop_in_time_is_left_behind():
    diary: list[str] = []
    slow, quick = Recorder("slow", diary, clean_up_s=60), Recorder("quick", diary)
    serving = asyncio.create_task(serve(slow, quick, grace_s=0.05))
    await quick.running.wait()
    os.kill(os.getpid(), signal.SIGINT)
    async with asyncio.timeout(5):
        await serving
    assert "quick ends" in diary
    assert "slow ends" not in diary


async def test_a_second_signal_ends_the_patience():
    diary: list[str] = []
    slow = Recorder("slow", diary, clean_up_s=60)
    serving = asyncio.create_task(serve(slow, grace_s=60))
    await slow.running.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(5):
        while "slow stops" not in diary:
            await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        await serving
    assert "slow ends" not in diary


async def test_when_all_return_so_does_serve():
    class Short:
        async def run(self) -> None:
            await asyncio.sleep(0)

    async with asyncio.timeout(5):
        await serve(Short(), Short())


async def test_cancelling_serve_stops_the_services():
    diary: list[str] = []
    one = Recorder("one", diary)
    serving = asyncio.create_task(serve(one))
    await one.running.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert diary[-1] == "one ends"


def test_a_process_that_cannot_start_says_why_and_ends_with_status_1():
    program = """
        from runtime import logs
        from runtime.errors import SettingsError
        from runtime.serve import run

        async def main() -> None:
            logs.setup("router")
            raise SettingsError("ROUTER_PORT is missing", "set ROUTER_PORT")

        run(main)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "ROUTER_PORT is missing" in done.stderr
    assert "Traceback" not in done.stderr
