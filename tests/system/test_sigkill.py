"""kill -9 of one part at a time, under load: nobody who was let in is cut, nothing is bought twice, nothing is lost."""

import asyncio
import contextlib
import os
import signal

import aiohttp
import psutil
import pytest
from conftest_system import until

pytestmark = pytest.mark.timeout(180)

PARTS = ("router", "scaler", "provisioner", "nats")


def body(seconds: float) -> dict:
    return {"prompt": "tick tock", "max_tokens": int(seconds / 0.05), "delay_s": 0.05, "stream": True}


async def stream_once(client, seconds: float) -> str:
    async with client.endpoint("echo").stream("/generate", body(seconds), cost=20) as stream:
        assert stream.status == 200
        content = b"".join([piece async for piece in stream.bytes()])
    assert content.endswith(b"data: [DONE]\n\n"), content[-200:]
    return stream.worker_id


async def endpoints(house):
    status, found = await house.api("GET", "/api/v0/endptjobs/")
    assert status == 200
    return found["results"]


@pytest.fixture(scope="module")
def loaded(house):
    """The echo endpoint with two hot workers, whatever the load."""
    house.corral("endpoint", "update", "echo", "--inactivity-timeout", "-1", "--max-workers", "3")

    async def warm():
        async with house.client() as client:
            await asyncio.gather(*(stream_once(client, 6) for _ in range(8)))

    asyncio.run(warm())
    return house


@pytest.mark.parametrize("part", PARTS)
async def test_kill_9_under_load(loaded, part):
    house = loaded
    before = await endpoints(house)
    victim = house.pid(part)
    async with house.client() as client:
        inflight = [asyncio.create_task(stream_once(client, 4)) for _ in range(4)]
        await until(lambda: busy(house, inflight), 20, "four answers are in flight")
        status, ticket = await house.api("POST", "/route/", json={"endpoint": "echo", "cost": 20})
        assert status == 200
        assert "url" in ticket
        os.kill(victim, signal.SIGKILL)

        async with (
            aiohttp.ClientSession() as session,
            session.post(
                ticket["url"] + "/generate", json=body(0.5), headers={"Authorization": f"Bearer {ticket['ticket']}"}
            ) as answer,
        ):
            assert answer.status == 200, "who holds a ticket is served, whoever died"
            assert (await answer.read()).endswith(b"data: [DONE]\n\n")
        late = [asyncio.create_task(stream_once(client, 0.5)) for _ in range(4)]
        await asyncio.gather(*inflight)
        await asyncio.gather(*late)

    await until(lambda: house.pid(part) != victim and psutil.pid_exists(house.pid(part)), 30, f"{part} was started again")
    await until(house.ready, 30, "the control plane is ready again")
    assert await endpoints(house) == before
    await until(lambda: settled(house), 40, "what runs is what is written down")
    async with house.client() as client:
        await stream_once(client, 0.5)


async def busy(house, answers):
    """All of them are being answered at this moment. Says what the workers hold when one has ended before the others began."""
    held = await inflight_by_worker(house)
    ended = [task for task in answers if task.done()]
    assert not ended, f"an answer ended before all had begun: {ended[0].exception() or ended[0].result()}; then {held}"
    return sum(held.values()) >= len(answers)


async def inflight_by_worker(house):
    """As the workers themselves say: what is listed lags behind while no scaler leads."""
    held = {}
    async with aiohttp.ClientSession() as session:
        for worker in await house.workers():
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(worker["url"] + "/metrics") as answer:
                    for line in (await answer.text()).splitlines():
                        if line.startswith("corral_worker_inflight") and not line.startswith("#"):
                            held[f"{worker['worker_id']} {worker['state']}"] = float(line.split()[-1])
    return held


async def settled(house):
    """One leading process for each hot worker, none beside, and no order waiting or dead."""
    hot = {
        w["worker_id"]
        for w in await house.workers()
        if w["state"] in ("ready", "loading", "model_loading", "benchmarking", "draining")
    }
    running = house.worker_processes()
    assert all(len(leaders) == 1 for leaders in running.values()), "a worker was started twice"
    if hot != set(running):
        return False
    with contextlib.suppress(ConnectionError):
        return await nothing_pending(house)
    return False


async def nothing_pending(house):
    import nats

    from schemas import subjects

    client = await nats.connect(
        house.run["nats_url"],
        user_credentials=str(house.data_dir / "creds" / "scaler.creds"),
        inbox_prefix=b"_INBOX_scaler",
        connect_timeout=2,
    )
    try:
        js = client.jetstream()
        commands = (await js.stream_info(subjects.STREAM_COMMANDS)).state.messages
        dead = (await js.stream_info(subjects.STREAM_DEAD_LETTERS)).state.messages
        assert dead == 0, "a command was lost to the dead letters"
        return commands == 0
    finally:
        await client.close()
