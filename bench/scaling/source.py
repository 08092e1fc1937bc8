"""Which source decides a result: the files that a module imports, and those import, within the project.

Whoever imports `a.b.c` runs `a/__init__.py` and `a/b/__init__.py` too. These count by what stands in them; what they import counts only
where the package itself is asked for something (`from a.b import f`): else a change of one policy would be a change of all.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@cache
def imported_by(module: str) -> frozenset[str]:
    """Modules and packages of the project whose imports decide too what this one does."""
    found = set()
    package = module if _is_package(module) else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(_file(module).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            found |= {_where(origin, alias.name) for alias in node.names}
    return frozenset(name for name in found if _file(name).is_file())


def _where(origin: str, name: str) -> str:
    """The module that `from origin import name` leads to: a part of the package, or what defines the name."""
    part = f"{origin}.{name}"
    return part if _file(part).is_file() else origin


def _is_package(module: str) -> bool:
    return (ROOT / module.replace(".", "/")).is_dir()


def _file(module: str) -> Path:
    place = ROOT / module.replace(".", "/")
    return place / "__init__.py" if place.is_dir() else place.with_name(f"{place.name}.py")


def reached_from(modules: Iterable[str]) -> list[str]:
    """These modules and all that they lead to, with the packages around them, in order of name."""
    reached: set[str] = set()
    ahead = list(modules)
    while ahead:
        module = ahead.pop()
        if module not in reached:
            reached.add(module)
            ahead += imported_by(module)
    return sorted(reached | {package for module in reached for package in _around(module)})


def _around(module: str) -> Iterable[str]:
    """The packages that it lies in, as far as they have a file."""
    parts = module.split(".")[:-1]
    packages = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
    return [package for package in packages if _file(package).is_file()]


@cache
def of_file(module: str) -> str:
    """A hash of the source of this module alone."""
    return hashlib.sha256(_file(module).read_bytes()).hexdigest()


@cache
def fingerprint(modules: tuple[str, ...]) -> str:
    """A hash of the source of these modules and of all that they lead to."""
    sha = hashlib.sha256()
    for module in reached_from(modules):
        sha.update(module.encode() + b"\0" + _file(module).read_bytes() + b"\0")
    return sha.hexdigest()
