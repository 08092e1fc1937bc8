"""Errors of the shell.

CorralError
+-- SettingsError        a setting is missing or wrong: names it
+-- BusError
|   +-- BusUnavailable   the bus does not answer; the outcome is unknown; try again
|   +-- BusRefused       the bus answered no: permissions, wrong credentials
|   +-- Conflict         compare-and-set: somebody else was first
|   +-- StreamMissing    topology was not created
+-- ServerError          the embedded nats-server does not start
"""

from __future__ import annotations


class CorralError(Exception):
    """Something a person should read. `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class SettingsError(CorralError):
    """A setting is missing or wrong."""


class BusError(CorralError):
    """Something about the bus."""


class BusUnavailable(BusError):
    """The bus does not answer. Whether the last call took effect is unknown."""


class BusRefused(BusError):
    """The bus answered no."""


class Conflict(BusError):
    """Compare-and-set failed: somebody else was first. `revision` is the newest one when known."""

    def __init__(self, message: str, revision: int | None = None) -> None:
        super().__init__(message)
        self.revision = revision


class StreamMissing(BusError):
    """A stream or bucket does not exist."""


class ServerError(CorralError):
    """The embedded nats-server does not start."""
