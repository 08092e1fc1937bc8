"""The one door through which `corral` reaches the language of the system."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from schemas import codec, events, http, ids, reasons, records, schedules, signals, states, whole
else:
    try:
        # Installed: the wheel carries the rooms privately, so a user's own schemas.py can never shadow ours.
        from ._rooms.schemas import codec, events, http, ids, reasons, records, schedules, signals, states, whole
    except ModuleNotFoundError as error:
        if error.name != f"{__package__}._rooms":
            raise  # a real missing dependency, such as msgspec
        # In a checkout: the room next door.
        from schemas import codec, events, http, ids, reasons, records, schedules, signals, states, whole

__all__ = ["codec", "events", "http", "ids", "reasons", "records", "schedules", "signals", "states", "whole"]
