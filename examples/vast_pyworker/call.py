"""Vast's own client (`pip install vastai`), unchanged, against Corral: CORRAL_URL and CORRAL_API_KEY say where and who."""

import asyncio
import os
import sys

from vastai import Serverless

URL = os.environ.get("CORRAL_URL", "http://127.0.0.1:8080").rstrip("/")


async def main(prompt: str) -> None:
    client = Serverless(os.environ["CORRAL_API_KEY"], autoscaler_url=URL, webserver_url=URL)
    client.SSL_CERT_URL = f"{URL}/static/jvastai_root.cer"  # else it asks Vast for a certificate before its first request
    async with client:
        endpoint = await client.get_endpoint("vast-echo")
        answer = await endpoint.request("/generate", {"prompt": prompt, "max_tokens": 8}, cost=8)
        print(answer["response"]["text"])


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "hello from afar"))
