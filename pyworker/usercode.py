"""What a user's own functions say about a payload. They may raise and return anything; a client must not be able to tell, and a log must
not hold what a client sent.
"""

from __future__ import annotations

import math

import aiohttp
import msgspec
import structlog
from aiohttp import web
from yarl import URL

from .config import HandlerConfig, Payload
from .errors import JsonDataException
from .upstream import ModelTrouble
from .verify import Refused
from .wire import http, ticket

log = structlog.get_logger()

_Code = http.ErrorCode


def prepare(
    handler: HandlerConfig, raw: msgspec.Raw | None, claims: ticket.TicketClaims
) -> tuple[memoryview | None, Payload | None, float]:
    """Run the user's parser and calculator. (body for the model, payload, units). Raises Refused."""
    units = claims.cost if math.isfinite(claims.cost) and claims.cost >= 0 else 0.0
    if raw is None:
        return None, None, units
    body = memoryview(raw)
    if handler.request_parser is None and handler.workload_calculator is None and handler.remote_function is None:
        return body, None, units
    try:
        payload = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise Refused(422, _Code.BAD_JSON, "The payload is not valid JSON.") from error
    if not isinstance(payload, dict):
        raise Refused(422, _Code.BAD_FIELD, "The payload must be a JSON object.")
    if handler.request_parser is not None:
        try:
            payload = handler.request_parser(payload)
            body = memoryview(msgspec.json.encode(payload))
        except JsonDataException as error:
            fields = {str(name): str(text) for name, text in error.message.items()}
            raise Refused(422, _Code.BAD_FIELD, "The payload was refused; `fields` says why.", fields=fields) from error
        except Exception as error:
            log.warning("request_parser_crashed", route=handler.route, error=type(error).__name__, where=where(error))
            raise Refused(500, _Code.INTERNAL, "The worker's own request_parser failed on this payload.") from error
    if handler.workload_calculator is not None:
        units = calculate(handler, payload, units)
    return body, payload, units


def calculate(handler: HandlerConfig, payload: Payload, otherwise: float) -> float:
    """The user's cost of a payload; the ticket's cost where that is no cost."""
    assert handler.workload_calculator is not None
    try:
        units = float(handler.workload_calculator(payload))
    except Exception as error:  # noqa: BLE001 -- user code
        log.warning("workload_calculator_crashed", route=handler.route, error=type(error).__name__, where=where(error))
        return otherwise
    return units if math.isfinite(units) and 0 <= units <= http.MAX_COST else otherwise


async def generate(
    handler: HandlerConfig, request: web.BaseRequest, url: str, body: bytes | aiohttp.StreamReader | None, *, enveloped: bool
) -> tuple[web.StreamResponse, int]:
    """The response_generator's answer, and the model's status. It is given an ordinary aiohttp response, decoded, as Vast's gives it.

    Raises ModelTrouble when the model cannot be asked, and whatever the generator raises.
    """
    assert handler.response_generator is not None
    headers = {
        "Content-Type": "application/json" if enveloped else request.headers.get("Content-Type", "application/octet-stream")
    }
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=None)) as session:
        try:
            answer = await session.request(
                request.method, URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
            )
        except (aiohttp.ClientError, OSError) as error:
            raise ModelTrouble(502, _Code.MODEL_UNREACHABLE, "The model server of this worker cannot be reached.") from error
        async with answer:
            out = await handler.response_generator(request, answer)
            if not isinstance(out, web.StreamResponse):
                raise TypeError(f"response_generator returned {type(out).__name__}")
            return out, answer.status


def where(error: BaseException) -> str:
    """File and line of the innermost frame. The message of an exception may quote what a client sent, so it is not logged."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
