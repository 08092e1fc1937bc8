"""Which source decides a result: the files that a module imports, and those import, within the project."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@cache
def imported_by(module: str) -> frozenset[str]:
    """Modules of the project that this one names in its imports. A package's own file counts only when the package is named alone."""
    found = set()
    package = module.rpartition(".")[0]
    for node in ast.walk(ast.parse(_file(module).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            found |= {f"{source}.{alias.name}" for alias in node.names} | {source}
    return frozenset(name for name in found if _file(name).is_file())


def _file(module: str) -> Path:
    return ROOT / f"{module.replace('.', '/')}.py"


def reached_from(modules: Iterable[str]) -> list[str]:
    """These modules and all that they lead to, in order of name."""
    reached: set[str] = set()
    ahead = list(modules)
    while ahead:
        module = ahead.pop()
        if module not in reached:
            reached.add(module)
            ahead += imported_by(module)
    return sorted(reached)


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
