"""The one door to `schemas`, the language that the worker and the control plane share.

A PyWorker lives in strangers' projects, which own files called schemas.py. Theirs must not shadow ours, nor ours theirs:
the wheel carries a private copy (`pyworker._schemas`); a checkout has the room next door, which is loaded under that same
private name when a stranger's `schemas` comes first on the path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from schemas import codec, http, ids, reasons, records, signals, states, subjects, ticket
else:
    try:
        from ._schemas import codec, http, ids, reasons, records, signals, states, subjects, ticket
    except ModuleNotFoundError as error:
        if error.name != f"{__package__}._schemas":
            raise  # a real missing dependency, such as msgspec
        import sys
        from importlib import util
        from pathlib import Path

        _room = Path(__file__).resolve().parent.parent / "schemas"
        _found = util.find_spec("schemas")
        if _found is not None and _found.origin == str(_room / "__init__.py"):
            from schemas import codec, http, ids, reasons, records, signals, states, subjects, ticket
        else:
            _private = f"{__package__}._schemas"
            _spec = util.spec_from_file_location(_private, _room / "__init__.py", submodule_search_locations=[str(_room)])
            sys.modules[_private] = util.module_from_spec(_spec)
            _spec.loader.exec_module(sys.modules[_private])
            from ._schemas import codec, http, ids, reasons, records, signals, states, subjects, ticket

__all__ = ["codec", "http", "ids", "reasons", "records", "signals", "states", "subjects", "ticket"]
