"""Why a worker process ended: from its exit code and its own last words. Pure."""

from __future__ import annotations

import re
import signal

from schemas.reasons import Cause
from schemas.records import Failure

_OUT_OF_MEMORY = re.compile(r"out of memory|\bMemoryError\b|std::bad_alloc|cannot allocate memory|\bOOM\b", re.IGNORECASE)
_PORT_TAKEN = re.compile(r"address already in use|EADDRINUSE|port \d+ is (already )?(in use|taken)|errno 98\b", re.IGNORECASE)
_NO_MODEL = re.compile(
    r"RepositoryNotFoundError|GatedRepoError|LocalEntryNotFoundError|EntryNotFoundError"
    r"|failed to (load|open) model|no such model|model (file )?not found|HTTPError.*huggingface",
    re.IGNORECASE,
)
_SHELL_CANNOT_RUN, _SHELL_NOT_FOUND = 126, 127
_SHELL_SIGNAL = 128


def explain(code: int | None, log_tail: str, *, ran_s: float, at: float) -> Failure:
    """`code` is None when another process collected it (the provisioner was restarted meanwhile)."""
    killed = _signal_of(code)
    how = _how(code, killed)
    if _OUT_OF_MEMORY.search(log_tail):
        cause, guess = Cause.MODEL_OOM, "its log speaks of memory"
    elif _PORT_TAKEN.search(log_tail):
        cause, guess = Cause.PORT_CONFLICT, "its log speaks of a port that is taken"
    elif _NO_MODEL.search(log_tail):
        cause, guess = Cause.MODEL_DOWNLOAD, "its log speaks of a missing model"
    elif killed == signal.SIGKILL:
        cause, guess = Cause.MODEL_OOM, "nobody here sent that: most likely the kernel, for memory"
    elif code in {_SHELL_CANNOT_RUN, _SHELL_NOT_FOUND}:
        cause, guess = Cause.START_CRASH, "its command could not be run"
    else:
        cause, guess = Cause.START_CRASH, ""
    message = f"the process {how} after {ran_s:.1f} s" + (f"; {guess}" if guess else "")
    return Failure(cause=cause, message=message, at=at, log_tail=log_tail)


def _signal_of(code: int | None) -> int | None:
    if code is None:
        return None
    if code < 0:
        return -code
    return code - _SHELL_SIGNAL if _SHELL_SIGNAL < code < _SHELL_SIGNAL + 65 else None


def _how(code: int | None, killed: int | None) -> str:
    if killed is not None:
        try:
            return f"was ended by {signal.Signals(killed).name}"
        except ValueError:
            return f"was ended by signal {killed}"
    return "ended (its code was lost)" if code is None else f"ended with code {code}"
