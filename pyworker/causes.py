"""Which cause a model server's end had, from its exit status and its last words. Pure."""

from __future__ import annotations

import re
import signal

from .wire import reasons

Cause = reasons.Cause

_SIGNS: tuple[tuple[reasons.Cause, re.Pattern[str]], ...] = (
    (
        Cause.MODEL_OOM,
        re.compile(
            r"out of memory|OutOfMemoryError|std::bad_alloc|MemoryError|cannot allocate memory|failed to allocate", re.IGNORECASE
        ),
    ),
    (Cause.PORT_CONFLICT, re.compile(r"address already in use|EADDRINUSE|couldn't bind", re.IGNORECASE)),
    (
        Cause.MODEL_DOWNLOAD,
        re.compile(
            r"RepositoryNotFound|GatedRepo|LocalEntryNotFound|failed to (?:open|load|read) (?:model|GGUF)|error loading model|"
            r"No such file or directory: .*\.(?:gguf|safetensors|bin|pt)\b|huggingface\.co.*(?:4\d\d|5\d\d|timed out|Max retries)",
            re.IGNORECASE,
        ),
    ),
)


def classify(log_tail: str, exit_status: int | None = None) -> reasons.Cause:
    """START_CRASH when nothing more precise can be read out of the log."""
    for cause, sign in _SIGNS:
        if sign.search(log_tail):
            return cause
    return Cause.START_CRASH if exit_status != -signal.SIGKILL else Cause.MODEL_OOM


def describe_exit(status: int) -> str:
    """One sentence part: "ended with status 3", "was ended by SIGKILL (...)"."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = " (often the system's answer to a lack of memory)" if status == -signal.SIGKILL else ""
    return f"was ended by {name}{hint}"
