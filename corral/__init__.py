"""Corral: a serverless GPU control plane that you run yourself. This is its face: client, command line, `corral up`."""

from __future__ import annotations

from .answer import Answer, Attempt, Timing
from .budget import Budgets
from .client import Corral, Endpoint, request
from .errors import (
    AnswerTooLarge,
    ApiError,
    BadRequest,
    BudgetExceeded,
    ConfigError,
    CorralError,
    EndpointStopped,
    Forbidden,
    GaveUp,
    ModelError,
    NotFound,
    StreamBroken,
    Taken,
    Unauthorized,
    Unreachable,
    WrongForm,
)
from .retry import Policy
from .sse import Event
from .stream import Stream

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "AnswerTooLarge",
    "ApiError",
    "Attempt",
    "BadRequest",
    "BudgetExceeded",
    "Budgets",
    "ConfigError",
    "Corral",
    "CorralError",
    "Endpoint",
    "EndpointStopped",
    "Event",
    "Forbidden",
    "GaveUp",
    "ModelError",
    "NotFound",
    "Policy",
    "Stream",
    "StreamBroken",
    "Taken",
    "Timing",
    "Unauthorized",
    "Unreachable",
    "WrongForm",
    "__version__",
    "request",
]
