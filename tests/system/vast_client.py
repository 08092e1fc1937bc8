"""Run in Vast's own environment: its public client, unchanged, asks endpoint ARGV[1] a few things and prints what it saw as JSON."""

import asyncio
import json
import os
import sys

from vastai import Serverless

URL = os.environ["CORRAL_URL"]


async def main(name: str) -> None:
    client = Serverless(os.environ["CORRAL_API_KEY"], autoscaler_url=URL, webserver_url=URL)
    client.SSL_CERT_URL = f"{URL}/static/jvastai_root.cer"
    seen = {}
    async with client:
        endpoint = await client.get_endpoint(name)
        answer = await endpoint.request("/generate", {"prompt": "one two", "max_tokens": 3}, cost=3)
        seen["answer"] = {key: answer[key] for key in ("status", "ok", "response")}
        stream = await endpoint.request("/generate", {"prompt": "a b", "max_tokens": 4, "stream": True}, cost=4, stream=True)
        seen["tokens"] = [piece["token"] async for piece in stream["response"]]
        burst = [endpoint.request("/generate", {"prompt": "x", "max_tokens": 2}, cost=2) for _ in range(8)]
        seen["burst"] = [one["response"]["text"] for one in await asyncio.gather(*burst)]
        session = await endpoint.session(cost=2, lifetime=30)
        seen["session"] = (await session.request("/generate", {"prompt": "s", "max_tokens": 2}, cost=2))["response"]["text"]
        await session.close()
        seen["workers"] = [[worker.id, worker.status, worker.perf > 0] for worker in await endpoint.get_workers()]
    print(json.dumps(seen))


asyncio.run(main(sys.argv[1]))
