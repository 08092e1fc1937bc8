"""What a signed route costs: `make bench-route`. One JSON object per line; exit status 1 when a bar is missed.

CPU per request (user + system time of the server's process over a fixed number of requests) is the figure to trust on a machine
that others use too. Servers take turns, round by round. The server is kept on one core and the load
on another where there are two. What is compared is compared within each round, side by side in time, and the median of these
ratios counts: on a busy machine rounds differ more than servers do.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import uvloop

from bench.load import drive, post
from bench.route_server import KEY, NAME

BARE = "bare aiohttp Application, constant reply"
BODY = msgspec.json.encode({"endpoint": NAME, "cost": 100.0, "request_idx": 0, "replay_timeout": 60.0})
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
BAR_CPU = 0.60  #: bare / route with 100 workers
BAR_N = 1.25  #: 10,000 workers / 10 workers
BAR_P50 = 2.0  #: route / bare, one connection


class Server:
    """One server process and what it costs."""

    def __init__(self, *args: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.route_server", *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        _pin(self._process.pid, 0)
        self.port = int(self._process.stdout.readline())

    def cpu_s(self) -> float:
        """CPU seconds used so far, to the nanosecond where Linux tells."""
        tasks = Path(f"/proc/{self._process.pid}/task")
        try:
            return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9
        except (OSError, IndexError):
            import psutil

            times = psutil.Process(self._process.pid).cpu_times()
            return times.user + times.system

    def stop(self) -> None:
        self._process.stdin.close()
        self._process.wait(10)


async def cpu_us(server: Server, requests: int, connections: int, expect: bytes) -> float:
    """CPU microseconds per request."""
    before = server.cpu_s()
    await drive(server.port, post("/route/", BODY, KEY), requests=requests, connections=connections, expect=expect)
    return (server.cpu_s() - before) / requests * 1e6


async def p50_us(server: Server, requests: int, expect: bytes) -> float:
    took = await drive(server.port, post("/route/", BODY, KEY), requests=requests, connections=1, expect=expect)
    return statistics.median(took) / 1e3


async def measure(rounds: int, requests: int, connections: int) -> bool:
    with tempfile.TemporaryDirectory() as directory:
        servers: dict[object, Server] = {"bare": Server("bare"), "route": Server("route", directory, "100")}
        servers |= {n: Server("still", directory, str(n)) for n in (10, 10_000)}
        expect = {name: b"xxx" if name == "bare" else b'"ticket":"' for name in servers}
        try:
            for name, server in servers.items():  # warm-up
                await cpu_us(server, requests // 4, connections, expect[name])
            cpu: dict[object, list[float]] = {name: [] for name in servers}
            p50: dict[object, list[float]] = {"bare": [], "route": []}
            for _ in range(rounds):
                for name, server in servers.items():
                    cpu[name].append(await cpu_us(server, requests, connections, expect[name]))
                for name, took in p50.items():
                    took.append(await p50_us(servers[name], requests // 10, expect[name]))
        finally:
            for server in servers.values():
                server.stop()
    at = {name: statistics.median(values) for name, values in cpu.items()}
    lat = {name: min(values) for name, values in p50.items()}
    ratio = of_rounds(cpu["bare"], cpu["route"])
    for name, value in at.items():
        report(f"cpu_pick_of_{name}" if isinstance(name, int) else f"cpu_{name}", value, "us/request", spread=cpu[name])
    good = report("route_cpu_ratio", ratio, "bare/route", vs=BARE, bar=BAR_CPU, ok=ratio >= BAR_CPU)
    grows = of_rounds(cpu[10_000], cpu[10])
    good &= report("route_cpu_growth", grows, "10000 workers/10 workers", vs="10 workers", bar=BAR_N, ok=grows <= BAR_N)
    slower = lat["route"] / lat["bare"]
    report("route_p50_us", lat["route"], "us", vs=BARE)
    good &= report("route_p50_ratio", slower, "route/bare, one connection", vs=BARE, bar=BAR_P50, ok=slower <= BAR_P50)
    return good


def of_rounds(above: list[float], below: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def report(bench: str, value: float, unit: str, *, ok: bool = True, spread: list[float] | None = None, **more: object) -> bool:
    line: dict[str, object] = {"bench": bench, "value": round(value, 3), "unit": unit, **more}
    if spread is not None:
        line["rounds"] = [round(value, 1) for value in spread]
    if "bar" in more:
        line["ok"] = ok
    print(msgspec.json.encode(line).decode(), flush=True)
    return ok


def _pin(pid: int, nth: int) -> None:
    """Keep a process on the nth of the cores that we may use, if there are two."""
    if len(CORES) > 1:
        os.sched_setaffinity(pid, {CORES[nth]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=8000, help="per server and round")
    parser.add_argument("--connections", type=int, default=32)
    args = parser.parse_args()
    _pin(0, 1)
    sys.exit(0 if uvloop.run(measure(args.rounds, args.requests, args.connections)) else 1)


if __name__ == "__main__":
    main()
