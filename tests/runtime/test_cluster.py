"""Three servers, every stream three times, and the one that leads is killed."""

import asyncio
import contextlib
import itertools
import socket
import subprocess
import time

import pytest

from runtime import js_names, server_binary, topology
from runtime.errors import BusError
from runtime.keyring import Keyring, write_secret
from runtime.lease import Lease
from runtime.nats_bus import NatsSettings, connect, open_client
from runtime.permissions import Role
from schemas import subjects
from schemas.ids import EndpointId

E1 = EndpointId(1)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class Cluster:
    def __init__(self, directory) -> None:
        self.directory = directory
        self.ring = Keyring.create(directory / "keys")
        write_secret(directory / "auth.conf", self.ring.auth_conf())
        ports = free_ports(6)
        self.clients, routes = ports[:3], ports[3:]
        self.nodes = []
        peers = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        for number in range(3):
            conf = directory / f"n{number}.conf"
            conf.write_text(
                f'server_name: n{number}\nlisten: "127.0.0.1:{self.clients[number]}"\n'
                f'jetstream {{ store_dir: "{directory}/js{number}", sync_interval: always }}\n'
                f'cluster {{ name: test, listen: "127.0.0.1:{routes[number]}", routes: [{peers}] }}\n'
                'include "auth.conf"\n'
            )
            argv = [server_binary.find_server(), "-c", conf]
            self.nodes.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def settings(self, role: Role, name: str) -> NatsSettings:
        path = self.ring.write_creds(role, name, self.directory / f"{name}.creds")
        return NatsSettings(urls=tuple(f"nats://127.0.0.1:{port}" for port in self.clients), creds=str(path))

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()
            node.wait()


@pytest.fixture
def cluster(tmp_path):
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.stop()


async def made(client) -> None:
    """The topology, as soon as the three have found each other."""
    async with asyncio.timeout(40):
        while True:
            try:
                return await topology.ensure(client, replicas=3)
            except BusError:
                await asyncio.sleep(0.3)


@pytest.mark.slow
async def test_a_leader_is_killed_and_nothing_is_lost_or_forgotten(cluster, eventually):
    gone: list[str] = []
    told: list[int] = []
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(open_client(cluster.settings(Role.MIGRATE, "migrate")))
        await made(client)
        scaler = await stack.enter_async_context(connect(cluster.settings(Role.SCALER, "scaler")))
        router = await stack.enter_async_context(connect(cluster.settings(Role.ROUTER, "router")))
        workers = scaler.bucket(subjects.BUCKET_WORKERS)
        await asyncio.gather(*(workers.put(f"e1.w{n}", b"x") for n in range(200)))

        # Right after a write, whichever replica answers, a view has all.
        for n in range(10):
            revision = await workers.put("e1.w0", b"%d" % n)
            async with router.view(workers.name) as fresh:
                await fresh.wait_synced(10)
                assert len(fresh.map) == 200
                assert fresh.map["e1.w0"].revision >= revision

        view = await stack.enter_async_context(
            router.view(workers.name, lambda key, data, _: gone.append(key) if data is None else None)
        )
        await view.wait_synced(10)
        lease = Lease(scaler.bucket(subjects.BUCKET_LEASE), subjects.lease_key(0), "scaler")
        epoch = await lease.acquire()
        keeping = asyncio.create_task(lease.keep())
        tailing = asyncio.create_task(
            router.tail(subjects.STREAM_EVENTS, [subjects.EVENTS], lambda _, data, __: told.append(int(data)), since_at=0.0)
        )
        for task in (keeping, tailing):
            stack.callback(task.cancel)

        info = await client.jetstream().stream_info(js_names.kv_stream(workers.name))
        assert info.cluster is not None
        assert info.cluster.leader is not None
        cluster.nodes[int(info.cluster.leader[1:])].kill()

        killed = time.monotonic()
        written_after = 0
        for n in itertools.count():
            # An append tries again by itself, for longer than an election takes.
            await scaler.append(subjects.event("decision", E1), b"%d" % n, msg_id=f"n{n}")
            with contextlib.suppress(BusError):
                await workers.put("e1.w1", b"%d" % n)
                written_after += time.monotonic() - killed > 0.5
            if written_after >= 5:
                break
        assert time.monotonic() - killed < 30
        await eventually(lambda: view.map["e1.w1"].data == b"%d" % n)
        await eventually(lambda: len(told) == n + 1)
        assert told == list(range(n + 1))
        assert len(view.map) == 200
        assert gone == []
        assert lease.held
        assert lease.epoch == epoch
