"""`python -m pyworker worker.py`: run the worker that a file describes.

The file either runs its worker itself, or leaves a WorkerConfig (or a Worker) under some name at module level.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

from .config import WorkerConfig
from .errors import ConfigError
from .worker import Worker

_USAGE = "usage: python -m pyworker FILE.py"


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print(_USAGE, file=sys.stderr)
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    path = Path(arguments[0]).resolve()
    if not path.is_file():
        print(f"pyworker: there is no file {path}\n{_USAGE}", file=sys.stderr)
        return 2
    sys.path.insert(0, str(path.parent))
    _step_aside(path)
    runs = Worker.runs
    try:
        names = runpy.run_path(str(path), run_name="__corral_worker__")
        if Worker.runs > runs:
            return 0  # it ran its worker itself
        found = [value for value in names.values() if isinstance(value, Worker)]
        found += [Worker(value) for value in names.values() if isinstance(value, WorkerConfig)] if not found else []
    except ConfigError as error:
        print(f"pyworker: {path.name}: {error}", file=sys.stderr)
        return 2
    if len(found) != 1:
        print(
            f"pyworker: {path.name} must leave exactly one WorkerConfig or Worker at module level, not {len(found)}",
            file=sys.stderr,
        )
        return 2
    found[0].run()
    return 0


def _step_aside(path: Path) -> None:
    """The user's own modules come first, even one called `schemas`. An installed pyworker has its own under a private name; in a
    checkout ours is already loaded under that name, so start again with the user's folder first on the path (see wire.py).
    """
    theirs = path.parent / "schemas.py", path.parent / "schemas"
    if "schemas" in sys.modules and any(one.exists() for one in theirs):
        again = f"import sys; sys.path.insert(0, {str(path.parent)!r}); from pyworker.__main__ import main; sys.exit(main([{str(path)!r}]))"
        os.execv(sys.executable, [sys.executable, "-c", again])  # noqa: S606 -- our own interpreter, our own words


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
