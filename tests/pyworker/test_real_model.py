"""The whole worker in front of a real language model."""

import asyncio
import json
import runpy
import time
from pathlib import Path

import pytest

from schemas.states import WorkerState

SMOLLM = Path(__file__).parents[2] / "examples" / "smollm"

pytestmark = pytest.mark.model


@pytest.fixture
async def worker(start_worker, monkeypatch):
    monkeypatch.syspath_prepend(str(SMOLLM))
    config = runpy.run_path(str(SMOLLM / "worker.py"))["config"]
    running = await start_worker(config, ready=False)
    await running.until(WorkerState.READY, 60)
    return running


async def test_a_real_model_is_measured_answers_streams_and_is_freed(worker, router, http, tmp_path):
    beat = worker.agent._next_heartbeat()
    assert beat.slots == 4
    assert beat.perf > 1.0
    ask = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 24, "temperature": 0}

    whole = await http.post(f"{worker.url}/v1/chat/completions", json=router.envelope(ask))
    answer = await whole.json()
    assert whole.status == 200, answer
    assert "light" in answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] <= 24
    assert "/" not in answer["model"], "no path of this machine"

    streamed = await http.post(
        f"{worker.url}/v1/chat/completions",
        data=json.dumps(ask | {"stream": True}),
        headers={"Authorization": f"Bearer {router.ticket()}"},
    )
    text = await streamed.text()
    words = [
        json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
        for line in text.splitlines()
        if line.startswith("data: {")
    ]
    assert "light" in "".join(words)
    assert text.endswith("data: [DONE]\n\n")

    assert worker.agent.load.served_units_total > 24
    canary = {"messages": [{"role": "user", "content": "zebra-canary-4711"}], "max_tokens": 4}
    assert (await http.post(f"{worker.url}/v1/chat/completions", json=router.envelope(canary))).status == 200
    assert "zebra-canary" not in (tmp_path / "w1" / "model.log").read_text()

    # a client that leaves frees the model
    long = {"prompt": "Once upon a time", "max_tokens": 900, "stream": True, "temperature": 0.8}
    reply = await http.post(f"{worker.url}/v1/completions", json=router.envelope(long))
    await reply.content.readany()
    reply.close()
    async with asyncio.timeout(5):
        while worker.agent.load.cancelled_total == 0:
            await asyncio.sleep(0.01)
    started = time.monotonic()
    short = {"prompt": "Hello", "max_tokens": 4}
    assert (await http.post(f"{worker.url}/v1/completions", json=router.envelope(short))).status == 200
    assert time.monotonic() - started < 5, "900 tokens would take longer than this on one thread"
