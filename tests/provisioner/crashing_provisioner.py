"""A real provisioner in a process of its own that is killed (SIGKILL) at a named point, once. Run by test_crash.py.

crashing_provisioner.py STATE_DIR NATS_URL CREDS POINT
"""

import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path

from provisioner.bundles import Bundles
from provisioner.providers.process import Folder, ProcessProvider, ProcessSettings
from provisioner.providers.process.files import ProcessState
from provisioner.reconcile import Rhythm
from provisioner.wiring import provisioner
from runtime.nats_bus import NatsSettings, connect
from schemas import subjects

STATE_DIR, URL, CREDS, POINT = sys.argv[1:5]
CONTROL = "http://127.0.0.1:9"


def die_at(point: str) -> None:
    if point == POINT:
        os.kill(os.getpid(), signal.SIGKILL)


class Bucket:
    """Dies after the write that the point names."""

    def __init__(self, bucket) -> None:
        self._bucket = bucket

    def __getattr__(self, name):
        return getattr(self._bucket, name)

    async def create(self, key, data, **more):
        revision = await self._bucket.create(key, data, **more)
        if b'"status":"claimed"' in data:
            die_at("after claim")
        if b'"state":"creating"' in data:
            die_at("after the moving record")
        return revision

    async def update(self, key, data, revision, **more):
        revision = await self._bucket.update(key, data, revision, **more)
        if b'"state":"running"' in data:
            die_at("after the record")
        if b'"state":"stopped"' in data:
            die_at("after the stopped record")
        if b'"state":"destroying"' in data:
            die_at("after the destroying record")
        return revision

    async def put(self, key, data, **more):
        revision = await self._bucket.put(key, data, **more)
        if b'"status":"done"' in data:
            die_at("after done")
        return revision


class Bus:
    def __init__(self, bus) -> None:
        self._bus = bus

    def __getattr__(self, name):
        return getattr(self._bus, name)

    def bucket(self, name):
        bucket = self._bus.bucket(name)
        return Bucket(bucket) if name in {subjects.BUCKET_IDEM, subjects.BUCKET_INSTANCES} else bucket

    async def append(self, subject, data, **more):
        result = await self._bus.append(subject, data, **more)
        if subject.startswith(subjects.events_of_kind("worker_created")[:-1]):
            die_at("after the event")
        return result


class DyingFolder(Folder):
    def write(self, saved):
        if saved.state is ProcessState.RUNNING:
            die_at("after the launch")  # the process runs, and its pid is written nowhere
        if saved.state is ProcessState.STOPPED:
            die_at("before stopped is written")
        written = super().write(saved)
        if saved.state is ProcessState.CREATING:
            die_at("before the launch")
        if saved.state is ProcessState.STOPPING:
            die_at("before the signal")
        return written

    def remove(self, worker_id):
        die_at("before the removal")
        super().remove(worker_id)


async def main() -> None:
    bundles = Bundles(minter=None, nats_urls=(URL,), control_url=CONTROL, ttl_s=3600, now=time.time)
    folder = DyingFolder(Path(STATE_DIR))
    local = ProcessProvider(
        folder=folder,
        settings=ProcessSettings(control_url=CONTROL),
        bundles=bundles,
        now=time.time,
        environ=os.environ,
        gpus_here=lambda: (),
    )
    with folder.locked():
        async with connect(NatsSettings(urls=(URL,), creds=CREDS)) as bus:
            service = provisioner(
                bus=Bus(bus),
                streams=bus,
                providers={"process": local},
                bundles=bundles,
                now=time.time,
                rng=random.Random(0),
                rhythm=Rhythm(every_s=0.3, orphan_grace_s=0.2),
            )
            await service.run()


asyncio.run(main())
