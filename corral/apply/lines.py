"""YAML as plain values that remember their lines, so that an error can point at the place."""

from __future__ import annotations

from typing import Any

import yaml

from corral.errors import ManifestError

#: From the document's root to a value: keys and indices.
Path = tuple["str | int", ...]
MAX_FILE_BYTES = 1024 * 1024
_MAX_DEPTH = 30


class Document:
    """One YAML document: `value`, and the line of everything in it."""

    def __init__(self, file: str, value: Any, lines: dict[Path, int]) -> None:
        self.file = file
        self.value = value
        self._lines = lines

    def where(self, path: Path = ()) -> str:
        """`file:line` of the value, or of the closest thing around it that has a line."""
        while path and path not in self._lines:
            path = path[:-1]
        return f"{self.file}:{self._lines.get(path, 1)}"

    def renamed(self, written: Path, meant: Path) -> None:
        """What is meant stands where it is written under another name."""
        if written in self._lines:
            self._lines[meant] = self._lines[written]

    def error(self, message: str, path: Path = (), hint: str = "") -> ManifestError:
        return ManifestError(self.where(path), message, hint)


def documents(text: str, file: str) -> list[Document]:
    """All documents of a file that are not empty. Raises ManifestError: not YAML, a key twice, too big, too deep."""
    if len(text.encode()) > MAX_FILE_BYTES:
        raise ManifestError(file, f"more than {MAX_FILE_BYTES} bytes", "split it into several files")
    found = []
    try:
        loader = yaml.SafeLoader(text)
        while loader.check_node():
            node = loader.get_node()
            lines: dict[Path, int] = {}
            value = None if node is None else _plain(loader, node, (), lines, file)
            if value is not None:
                found.append(Document(file, value, lines))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise ManifestError(
            f"{file}:{line}", f"not YAML: {error.problem or error.context}", "check indentation and quotes"
        ) from error
    except yaml.YAMLError as error:
        raise ManifestError(file, f"not YAML: {error}") from error
    return found


def _plain(loader: yaml.SafeLoader, node: yaml.Node, path: Path, lines: dict[Path, int], file: str) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if len(path) > _MAX_DEPTH:
        raise ManifestError(f"{file}:{line}", f"nested more than {_MAX_DEPTH} deep")
    if isinstance(node, yaml.MappingNode):
        return _mapping(loader, node, path, lines, file)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*path, index), lines, file) for index, item in enumerate(node.value)]
    try:
        return loader.construct_object(node)
    except ValueError as error:  # 2026-99-99 looks like a date
        raise ManifestError(f"{file}:{line}", f"not a value: {error}", "put it in quotes if it is text") from error


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode, path: Path, lines: dict[Path, int], file: str) -> dict[str, Any]:
    own = {id(key) for key, _ in node.value}
    loader.flatten_mapping(node)  # `<<: *defaults`
    found: dict[str, Any] = {}
    written: dict[str, bool] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = loader.construct_object(key_node)
        if not isinstance(key, str):
            raise ManifestError(f"{file}:{line}", f"a field's name must be text, not {key!r}", f'write "{key}" in quotes')
        if written.get(key) and id(key_node) in own:
            raise ManifestError(f"{file}:{line}", f"{key!r} is given twice", "keep one of them")
        written[key] = id(key_node) in own
        lines[*path, key] = line
        found[key] = _plain(loader, value_node, (*path, key), lines, file)
    return found
