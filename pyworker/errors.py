"""Errors that a person who runs or configures a worker reads.

WorkerError
+-- SettingsError   a variable of the environment is missing or wrong: names it
+-- ConfigError     the WorkerConfig contradicts itself: names the field
+-- PortTaken       the worker's port is in use
+-- ModelFailed     the model server did not start or went away: carries the Failure that the control plane gets
JsonDataException   raised by a user's request_parser: the payload is wrong (422)
"""

from __future__ import annotations

from typing import Any

from .wire import records


class WorkerError(Exception):
    """`hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class SettingsError(WorkerError):
    """A variable of the environment is missing or wrong."""


class ConfigError(WorkerError):
    """The WorkerConfig cannot work."""


class PortTaken(WorkerError):
    """Somebody else listens on the worker's port."""


class ModelFailed(WorkerError):
    """The model server is not coming, or is gone."""

    def __init__(self, failure: records.Failure) -> None:
        super().__init__(f"{failure.cause}: {failure.message}")
        self.failure = failure


class JsonDataException(Exception):
    """Raise it in a request_parser: the caller gets 422 with these fields."""

    def __init__(self, json_msg: dict[str, Any]) -> None:
        super().__init__(json_msg)
        self.message = json_msg
