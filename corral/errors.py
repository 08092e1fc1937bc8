"""What can go wrong for somebody who uses Corral. Each error says what happened, why, and what to do next.

CorralError
+-- ConfigError        no address or key is known here
+-- Unreachable        the control plane does not answer
+-- ApiError           the control plane said no
|   +-- BadRequest     it did not understand (400, 413, 422)
|   +-- Unauthorized   no key, or a wrong one (401)
|   +-- Forbidden      the key may not do this (403)
|   +-- NotFound       no such thing (404, 410)
|   +-- Taken          it exists already, or somebody else was first (409)
+-- BudgetExceeded     a time budget ran out; says which
+-- EndpointStopped    an operator stopped the endpoint, so waiting is in vain
+-- GaveUp             worker after worker refused or failed
+-- WrongForm          this endpoint's workers cannot be asked like this
+-- StreamBroken       the answer ended before its end
+-- AnswerTooLarge     more bytes than the caller allows
+-- ModelError         the model itself answered with an error (only from raise_for_status)
+-- ManifestError      a file that `apply` cannot use; knows the line
+-- StartError         `corral up` cannot start or go on
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .answer import Attempt


class CorralError(Exception):
    """`message` says what and why, `hint` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(CorralError):
    """No address or no key."""


class Unreachable(CorralError):
    """The control plane does not answer at all."""


class ApiError(CorralError):
    """The control plane refused. `code` is one of schemas.http.ErrorCode, `fields` maps a field to what is wrong with it."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        fields: Mapping[str, str] | None = None,
        request_id: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message, hint)
        self.status = status
        self.code = code
        self.fields = dict(fields or {})
        self.request_id = request_id


class BadRequest(ApiError):
    """The request itself is wrong; the same request will never succeed."""


class Unauthorized(ApiError):
    """No API key, or one that is not known."""


class Forbidden(ApiError):
    """The API key is known and may not do this."""


class NotFound(ApiError):
    """What was named does not exist."""


class Taken(ApiError):
    """The name exists already, or somebody else changed the thing in between."""


class BudgetExceeded(CorralError):
    """`budget` is queue, connect, first_byte, idle or total; `spent_s` says where the time went, by phase."""

    def __init__(self, budget: str, *, limit_s: float, spent_s: Mapping[str, float], detail: str = "", hint: str = "") -> None:
        where = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in spent_s.items() if seconds >= 0.05)
        message = f"the {budget} budget of {limit_s:g} s ran out"
        if where:
            message += f" (spent: {where})"
        if detail:
            message += f": {detail}"
        super().__init__(message, hint or f"allow more with {budget}_s=..., or see `corral worker list` for what the workers do")
        self.budget = budget
        self.limit_s = limit_s
        self.spent_s = dict(spent_s)


class EndpointStopped(CorralError):
    """The endpoint exists and was stopped by an operator."""


class GaveUp(CorralError):
    """Every attempt was refused or failed before the first byte. `attempts` tells them one by one."""

    def __init__(self, message: str, attempts: Sequence[Attempt], hint: str = "") -> None:
        super().__init__(message, hint)
        self.attempts = tuple(attempts)


class WrongForm(CorralError):
    """The endpoint's workers run Vast's PyWorker, which takes a JSON object by POST and nothing else. Nothing was sent."""


class StreamBroken(CorralError):
    """The connection to the worker was lost after the first byte; nothing is repeated, because the answer had begun."""

    def __init__(self, message: str, *, received_bytes: int, worker_id: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.received_bytes = received_bytes
        self.worker_id = worker_id


class AnswerTooLarge(CorralError):
    """The answer is longer than `max_answer_bytes`."""


class ModelError(CorralError):
    """The model server answered with a status of 400 or above."""

    def __init__(self, status: int, body: bytes, worker_id: str) -> None:
        text = body[:300].decode("utf-8", "replace")
        super().__init__(
            f"the model answered {status}: {text}", "the request reached the model; see the model's own documentation"
        )
        self.status = status
        self.body = body
        self.worker_id = worker_id


class ManifestError(CorralError):
    """`where` is "file:line" as far as it is known."""

    def __init__(self, where: str, message: str, hint: str = "") -> None:
        super().__init__(f"{where}: {message}", hint)
        self.where = where


class StartError(CorralError):
    """`corral up` cannot start, or cannot go on."""
