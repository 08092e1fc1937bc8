"""A call in the form that Vast's own PyWorker takes: POST, with what the router said beside the payload. Pure.

It has no other form: any path, method or body that our workers pass on as it is must be said here as a JSON object, or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from .errors import WrongForm
from .wire import http

_HINT = "an endpoint with Corral's PyWorker takes any method and body"


def envelope(method: str, body: bytes, headers: Mapping[str, str], ready: http.RouteReady) -> bytes:
    """The body to send instead. Raises WrongForm when the call cannot be said in that form."""
    if method.upper() != "POST":
        raise WrongForm(f"the workers of endpoint {ready.endpoint!r} run Vast's PyWorker, which takes POST, not {method}", _HINT)
    kind = next((value for name, value in headers.items() if name.lower() == "content-type"), "application/json")
    try:
        if kind.partition(";")[0].strip().lower() != "application/json":
            raise msgspec.DecodeError(f"it is {kind}")
        msgspec.json.decode(body or b"{}", type=dict[str, msgspec.Raw])
    except msgspec.DecodeError as error:
        raise WrongForm(
            f"the workers of endpoint {ready.endpoint!r} run Vast's PyWorker, which takes a JSON object: {error}", _HINT
        ) from error
    auth = {
        "cost": ready.cost,
        "endpoint": ready.endpoint,
        "reqnum": ready.reqnum,
        "request_idx": ready.request_idx,
        "signature": ready.signature,
        "url": ready.url,
    }
    return msgspec.json.encode({"auth_data": auth, "session_id": None, "payload": msgspec.Raw(body or b"{}")})
