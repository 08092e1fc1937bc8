"""The main job, in real processes: asleep, asked, awake, answered; and what must not be seen on the way."""

import asyncio
import json
import os
import signal
import subprocess
import sys

import aiohttp
import nats
import psutil
import pytest
from conftest_system import ECHO, until

from corral.errors import StreamBroken
from schemas import subjects

pytestmark = pytest.mark.timeout(180)


async def ask(client, prompt="one two three", **more):
    return await client.endpoint("echo").request("/generate", {"prompt": prompt, "max_tokens": 3, **more}, cost=3)


async def test_the_first_request_to_a_sleeping_endpoint_is_held_and_answered(house):
    async with house.client() as client:
        answer = await ask(client)
    assert answer.json() == {"text": "one two three", "tokens": 3}
    assert answer.timing.cold_start
    assert [a.outcome for a in answer.attempts] == ["answered"], "one worker was woken, and it answered"


async def test_one_wake_up_makes_one_worker_however_many_wait(installation):
    installation.corral("apply", "--yes", "-f", str(ECHO))
    async with installation.client() as client:
        answers = await asyncio.gather(*(ask(client) for _ in range(3)))
    assert all(answer.ok for answer in answers)
    assert len(installation.worker_processes()) == 1


async def test_a_stream_arrives_as_the_model_wrote_it(house):
    async with (
        house.client() as client,
        client.endpoint("echo").stream("/generate", {"prompt": "a b", "max_tokens": 4, "stream": True}, cost=4) as stream,
    ):
        content = b"".join([piece async for piece in stream.bytes()])
    tokens = [{"index": i, "token": "ab"[i % 2]} for i in range(4)]
    assert content == b"".join(f"data: {json.dumps(t)}\n\n".encode() for t in tokens) + b"data: [DONE]\n\n"


async def test_vasts_two_steps_by_hand(house):
    """As the public clients do it: an envelope with the whole answer of /route/ as auth_data."""
    async with house.client() as client:
        await ask(client)
    status, route = await house.api(
        "POST", "/route/", json={"endpoint": "echo", "cost": 3.0, "request_idx": 0, "replay_timeout": 60.0}
    )
    assert status == 200
    assert {"endpoint", "cost", "reqnum", "request_idx", "signature", "url"} <= set(route)
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            route["url"] + "/generate", json={"auth_data": route, "session_id": None, "payload": {"prompt": "x", "max_tokens": 1}}
        ) as answer,
    ):
        assert answer.status == 200
        assert (await answer.json())["text"] == "x"


async def test_decisions_come_as_events_with_reasons(house):
    async with house.client() as client:
        await ask(client)
    lines = [
        json.loads(line)
        for line in house.corral("events", "tail", "--json", "--no-follow", "--since", "10m").splitlines()
        if line
    ]
    kinds = {line["kind"] for line in lines}
    assert {"endpoint_created", "decision", "worker_created", "worker_ready"} <= kinds
    woke = next(line for line in lines if line["kind"] == "decision" and any(a["op"] == "create" for a in line["actions"]))
    assert woke["why"] == "demand_waiting"
    assert woke["reason"]
    assert {i["name"] for i in woke["inputs"]}


def tree(house):
    ours = [psutil.Process(house.process.pid), *psutil.Process(house.process.pid).children(recursive=True)]
    for leaders in house.worker_processes().values():
        for leader in leaders:
            ours += [leader, *leader.children(recursive=True)]
    return ours


async def test_nothing_listens_beyond_loopback(house):
    async with house.client() as client:
        await ask(client)
    listening = [
        (process.name(), connection.laddr.ip, connection.laddr.port)
        for process in tree(house)
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 4, "nats-server, router, worker and model listen"
    assert {ip for _, ip, _ in listening} <= {"127.0.0.1", "::1"}


async def test_secrets_are_readable_by_their_owner_only(house):
    private = {".creds", ".seed", ".key", ".pem", ".secret"}
    found = [
        p for p in house.data_dir.rglob("*") if p.is_file() and (p.suffix in private or p.name in {"run.json", "bundle.json"})
    ]
    assert len(found) >= 8
    assert [str(p) for p in found if p.stat().st_mode & 0o077] == []


async def every_stored_message(house):
    """Everything in every stream and bucket, and every event, as raw bytes."""
    client = await nats.connect(
        house.run["nats_url"], user_credentials=str(house.data_dir / "creds" / "scaler.creds"), inbox_prefix=b"_INBOX_scaler"
    )
    try:
        js = client.jetstream()
        stored = []
        names = [f"KV_{bucket}" for bucket in subjects.BUCKETS]
        names += [subjects.STREAM_COMMANDS, subjects.STREAM_WORKER_EVENTS, subjects.STREAM_DEAD_LETTERS]
        for name in names:
            state = (await js.stream_info(name)).state
            for seq in range(max(state.first_seq, 1), state.last_seq + 1):
                try:
                    message = await js.get_msg(name, seq)
                except nats.js.errors.NotFoundError:
                    continue
                stored.append((message.subject or "", message.data or b"", str(message.headers or "")))
        return stored
    finally:
        await client.close()


async def test_a_payload_is_seen_by_nobody_but_client_worker_and_model(house):
    canary = "canary-5f2b9c7e-chirp"
    async with house.client() as client:
        answer = await ask(client, prompt=canary)
        assert canary in answer.text
        async with client.endpoint("echo").stream("/generate", {"prompt": canary, "stream": True}, cost=3) as stream:
            assert canary.encode() in b"".join([piece async for piece in stream.bytes()])
        refused = await client.endpoint("echo").request("/no-such-path", {"prompt": canary}, cost=3)
        assert refused.status == 404
    metrics = ""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{house.url}/metrics") as response:
            metrics += await response.text()
        for worker in await house.workers():
            async with session.get(f"{worker['url']}/metrics") as response:
                metrics += await response.text()
    assert "corral_" in metrics
    assert canary not in metrics

    stored = await every_stored_message(house)
    assert len(stored) > 5
    assert [subject for subject, data, headers in stored if canary in headers or canary.encode() in data] == []
    events = house.corral("events", "tail", "--json", "--no-follow", "--since", "10m")
    assert events
    assert canary not in events
    files = [p for p in house.data_dir.rglob("*") if p.is_file()]
    assert any(p.suffix == ".log" for p in files)
    assert [str(p) for p in files if canary.encode() in p.read_bytes()] == []


async def test_keys_are_in_no_log_and_no_stored_value(house):
    secrets = {house.admin_key, *(p.read_text().strip() for p in house.data_dir.rglob("*.seed"))}
    for path in house.data_dir.rglob("*.log"):
        text = path.read_text(errors="replace")
        assert not [s for s in secrets if s in text], path
    for subject, data, headers in await every_stored_message(house):
        assert not [s for s in secrets if s.encode() in data or s in headers], subject


async def test_a_dead_model_is_a_clean_error_and_its_worker_is_replaced(house):
    async with house.client() as client:
        first = await ask(client)
        (leader,) = house.worker_processes()[first.worker_id]
        model = next(child for child in leader.children(recursive=True) if "model_server.py" in " ".join(child.cmdline()))
        stream = client.endpoint("echo").stream(
            "/generate", {"prompt": "slow", "max_tokens": 200, "delay_s": 0.05, "stream": True}, cost=200
        )
        async with stream:
            assert stream.worker_id == first.worker_id
            with pytest.raises(StreamBroken):
                async for _ in stream.bytes():
                    if model.is_running():
                        model.kill()
        await until(lambda: not_ready(house, first.worker_id), 10, "the worker left Ready")
        again = await ask(client)
        assert again.ok
        (answering,) = house.worker_processes()[again.worker_id]
        assert answering.pid != leader.pid, "another worker, or the same one rebooted"


async def not_ready(house, worker_id):
    return all(w["state"] != "ready" for w in await house.workers() if w["worker_id"] == worker_id)


async def test_a_second_start_finds_endpoints_and_workers_again(installation):
    installation.corral("apply", "--yes", "-f", str(ECHO))
    async with installation.client() as client:
        before = await ask(client)
    key, ports = installation.admin_key, installation.run["ports"]
    assert await installation.stop() == 0
    assert installation.worker_processes() == {}, "Ctrl-C leaves no process behind"
    await installation.start()
    assert installation.admin_key == key
    assert installation.run["ports"] == ports
    await until(lambda: cold(installation, before.worker_id), 10, "the cold worker is known")
    async with installation.client() as client:
        after = await ask(client)
    assert after.ok
    assert after.worker_id == before.worker_id, "the cold worker is back; none was bought"


async def cold(installation, worker_id):
    return [w["worker_id"] for w in await installation.workers() if w["state"] == "stopped"] == [worker_id]


async def test_a_start_after_a_crash_of_everything_finds_the_workers_that_still_run(installation):
    installation.corral("apply", "--yes", "-f", str(ECHO))
    async with installation.client() as client:
        before = await ask(client)
    installation.process.send_signal(signal.SIGSTOP)  # or it would start them again
    for part, pid in installation.run["pids"].items():
        if part != "up":  # it goes last, or the others would hear that it died and end in order
            os.kill(pid, signal.SIGKILL)
    installation.process.kill()
    installation.process.wait(10)
    pids = {wid: [p.pid for p in leaders] for wid, leaders in installation.worker_processes().items()}
    assert pids, "workers outlive the control plane"
    await installation.start()
    async with installation.client() as client:
        after = await ask(client)
    assert after.worker_id == before.worker_id
    assert {wid: [p.pid for p in leaders] for wid, leaders in installation.worker_processes().items()} == pids


def test_a_second_corral_up_on_the_same_directory_is_refused(house):
    done = subprocess.run(
        [sys.executable, "-m", "corral.cli", "up", "--data-dir", str(house.data_dir), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode != 0
    assert "already" in (done.stderr + done.stdout)
