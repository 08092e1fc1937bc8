"""JSON that was written anew, as by `jq` or a script: it says the same in other bytes. What was hashed were the bytes, so they are found
again where that is possible. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

_encode = msgspec.json.encode
#: A fraction that is whole. Whoever writes none, as JavaScript, wrote each of them without its point.
_WHOLE_FRACTION = re.compile(rb"\d\.0[,\]}]")


def writings(data: bytes, kind: type[msgspec.Struct]) -> Iterator[bytes]:
    """As it stands, then as we write: without spaces, and with the fields of `kind` in its order."""
    yield data
    try:
        raw = msgspec.json.decode(data)
        yield _encode(raw)
        yield _encode(_ordered(raw, msgspec.json.decode(data, type=kind)))
    except msgspec.DecodeError:
        return


def is_anew(data: bytes, kind: type[msgspec.Struct]) -> bool:
    """Whether somebody else wrote it: it is not as we would write it."""
    *_, ours = writings(data, kind)
    return ours != data or _WHOLE_FRACTION.search(data) is None


def _ordered(raw: Any, value: Any) -> Any:
    """The same with each struct's fields in their order; those that it lacks come last. Keys of mappings stay as they are."""
    if isinstance(value, msgspec.Struct):
        known = {name: _ordered(raw[name], getattr(value, name)) for name in value.__struct_fields__ if name in raw}
        return known | {name: inner for name, inner in raw.items() if name not in known}
    if isinstance(value, dict):
        return {key: _ordered(inner, known) for (key, inner), known in zip(raw.items(), value.values(), strict=True)}
    if isinstance(value, tuple):
        return [_ordered(inner, known) for inner, known in zip(raw, value, strict=True)]
    return raw
