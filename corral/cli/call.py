"""`corral call`"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from corral.answer import Timing
from corral.budget import Budgets
from corral.errors import ConfigError
from corral.sse import Event
from corral.stream import Stream
from corral.wire import http

from .command import Session, command
from .show import seconds


def add(app: typer.Typer) -> None:
    command(app, "call")(call)


async def call(
    session: Session,
    endpoint: Annotated[str, typer.Argument(help="The endpoint's name.", show_default=False)],
    path: Annotated[str, typer.Argument(help="The model's path, such as /v1/chat/completions.", show_default=False)],
    data: Annotated[str | None, typer.Option("--data", "-d", help="The body: JSON, @FILE, or @- for stdin.")] = None,
    cost: Annotated[float, typer.Option(min=0, help="Expected work, in the endpoint's units.")] = 100.0,
    method: Annotated[str, typer.Option("--method", "-X", help="HTTP method.")] = "POST",
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds for everything, waiting for a cold worker included.")
    ] = 600.0,
    *,
    stream: Annotated[bool, typer.Option("--stream", "-s", help="Ask for a stream, and print tokens as they come.")] = False,
) -> int:
    """Ask an endpoint, and print the model's answer."""
    corral = await session.corral()
    show = session.show
    body, headers = _body(data, stream=stream)
    budgets = Budgets(queue_s=timeout_s, total_s=timeout_s, first_byte_s=timeout_s)
    waited = _Waiting(session)
    request = corral.endpoint(endpoint, budgets=budgets).stream(
        path, body, cost=cost, method=method, headers=headers, on_wait=waited
    )
    async with request as answer:
        if stream and answer.ok:
            await (_print_raw(answer) if show.as_json else _print_tokens(answer))
        else:
            whole = await answer.answer(64 * 1024 * 1024)
            sys.stdout.buffer.write(whole.content if show.as_json else _pretty(whole.content))
            sys.stdout.buffer.flush()
        if sys.stdout.isatty():
            print()
        show.note(_summary(answer.timing, answer.worker_id, len(answer.attempts)))
        if not answer.ok:
            show.err.print(f"the model answered {answer.status}", style="red")
        return 0 if answer.ok else 1


class _Waiting:
    """Says once in a while why there is no answer yet."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._said = ""
        self._said_at = 0.0

    def __call__(self, waiting: http.RouteWaiting) -> None:
        if waiting.status != self._said or time.monotonic() - self._said_at > 15:
            self._said, self._said_at = waiting.status, time.monotonic()
            self._session.show.note(f"waiting: {waiting.status}")


def _body(data: str | None, *, stream: bool) -> tuple[bytes | None, dict[str, str]]:
    if data is None:
        if stream:
            raise ConfigError("--stream needs a body", "give it with -d JSON")
        return None, {}
    try:
        raw = _read(data)
    except OSError as error:
        raise ConfigError(
            f"cannot read {data[1:]}: {error.strerror}", "-d @FILE reads a file, -d JSON takes the body itself"
        ) from error
    try:
        value: Any = msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        if data.startswith("@") and not stream:
            return raw, {"Content-Type": "application/octet-stream"}
        raise ConfigError(f"the body is not JSON: {error}", """quote it for the shell: -d '{"prompt": "hi"}'""") from error
    if stream and isinstance(value, dict):
        raw = msgspec.json.encode({**value, "stream": True})
    return raw, {"Content-Type": "application/json"}


def _read(data: str) -> bytes:
    if data == "@-":
        return sys.stdin.buffer.read()
    return Path(data[1:]).read_bytes() if data.startswith("@") else data.encode()


async def _print_tokens(answer: Stream) -> None:
    async for event in answer.events():
        sys.stdout.write(token(event))
        sys.stdout.flush()
    sys.stdout.write("\n")


async def _print_raw(answer: Stream) -> None:
    async for event in answer.events():
        sys.stdout.write(event.data + "\n")
        sys.stdout.flush()


def token(event: Event) -> str:
    """The text in one event of an OpenAI-style stream; the whole event when it is something else."""
    if event.done:
        return ""
    try:
        value = event.json()
    except msgspec.DecodeError:
        return event.data + "\n"
    if not isinstance(value, dict) or not isinstance(value.get("choices"), list):
        return event.data + "\n"
    texts = (choice.get("text") or (choice.get("delta") or {}).get("content") for choice in value["choices"])
    return "".join(text for text in texts if isinstance(text, str))


def _pretty(content: bytes) -> bytes:
    if not sys.stdout.isatty():
        return content
    try:
        return msgspec.json.format(content, indent=2)
    except msgspec.DecodeError:
        return content


def _summary(timing: Timing, worker_id: str, attempts: int) -> str:
    parts = [f"worker {worker_id}", f"waited {seconds(timing.route_wait_s)}", f"first byte {seconds(timing.first_byte_s)}"]
    parts.append(f"total {seconds(timing.total_s)}")
    if timing.cold_start:
        parts.append("cold start")
    if attempts > 1:
        parts.append(f"{attempts} attempts")
    return ", ".join(parts)
