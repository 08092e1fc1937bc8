"""A stand-in for a model server: it "generates" by giving the prompt back, word by word.

    POST /generate   {"prompt": "...", "max_tokens": 16, "delay_s": 0.0, "stream": true}
    POST /upload     any body; answers with its length and SHA-256
    GET  /health     200 once the "model" is loaded, 503 before

The delays are its knobs: ECHO_LOAD_S (time to load), ECHO_TOKEN_S (time per token), ECHO_SLOTS (tokens are made for so many requests at
once). It also listens on loopback only, and port MODEL_PORT.
"""

import asyncio
import hashlib
import itertools
import json
import os
import sys

from aiohttp import web

import schemas  # our own schemas.py, right beside this file

LOAD_S = float(os.environ.get("ECHO_LOAD_S", "0.5"))
TOKEN_S = float(os.environ.get("ECHO_TOKEN_S", "0.01"))
SLOTS = asyncio.Semaphore(int(os.environ.get("ECHO_SLOTS", "4")))


class Model:
    loaded = False

    async def load(self, app: web.Application) -> None:
        async def later() -> None:
            await asyncio.sleep(LOAD_S)
            self.loaded = True
            print("echo model loaded", flush=True)

        app["loading"] = asyncio.create_task(later())

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok" if self.loaded else "loading"}, status=200 if self.loaded else 503)

    async def generate(self, request: web.Request) -> web.StreamResponse:
        ask = schemas.Ask.read(await request.json())
        words = itertools.islice(itertools.cycle(ask.prompt.split() or ["..."]), ask.max_tokens)
        async with SLOTS:
            if not ask.stream:
                text = []
                for word in words:
                    await asyncio.sleep(ask.delay_s or TOKEN_S)
                    text.append(word)
                return web.json_response({"text": " ".join(text), "tokens": len(text)})
            reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await reply.prepare(request)
            for number, word in enumerate(words):
                await asyncio.sleep(ask.delay_s or TOKEN_S)
                await reply.write(f"data: {json.dumps({'index': number, 'token': word})}\n\n".encode())
            await reply.write(b"data: [DONE]\n\n")
            return reply

    async def upload(self, request: web.Request) -> web.Response:
        digest, size = hashlib.sha256(), 0
        async for piece in request.content.iter_any():
            digest.update(piece)
            size += len(piece)
        return web.json_response({"bytes": size, "sha256": digest.hexdigest()})


def main() -> None:
    model = Model()
    app = web.Application(client_max_size=0)
    app.on_startup.append(model.load)
    app.router.add_get("/health", model.health)
    app.router.add_post("/generate", model.generate)
    app.router.add_post("/upload", model.upload)
    port = int(os.environ.get("MODEL_PORT", "8001"))
    print(f"echo model on 127.0.0.1:{port}", file=sys.stderr, flush=True)
    web.run_app(app, host="127.0.0.1", port=port, print=None, handler_cancellation=True)


if __name__ == "__main__":
    main()
