"""`python -m pyworker worker.py`: run the worker that a file describes.

The file either runs its worker itself, or leaves a WorkerConfig (or a Worker) under some name at module level.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from .config import WorkerConfig
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
    _step_aside(path.parent)
    runs = Worker.runs
    names = runpy.run_path(str(path), run_name="__corral_worker__")
    if Worker.runs > runs:
        return 0  # it ran its worker itself
    found = [value for value in names.values() if isinstance(value, Worker)]
    found += [Worker(value) for value in names.values() if isinstance(value, WorkerConfig)] if not found else []
    if len(found) != 1:
        print(
            f"pyworker: {path.name} must leave exactly one WorkerConfig or Worker at module level, not {len(found)}",
            file=sys.stderr,
        )
        return 2
    found[0].run()
    return 0


def _step_aside(folder: Path) -> None:
    """The user's own modules come first, even those named like ours: in a checkout `schemas` is already loaded, and forgotten here."""
    sys.path.insert(0, str(folder))
    if (folder / "schemas.py").exists() or (folder / "schemas").is_dir():
        for name in [name for name in sys.modules if name == "schemas" or name.startswith("schemas.")]:
            del sys.modules[name]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
