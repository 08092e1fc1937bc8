"""Which handler answers a path. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .config import HandlerConfig

#: "." or ".." as a segment, plain or encoded, or a backslash: model servers disagree on what such a path means, so a prefix
#: route could be left through it.
_DEVIOUS = re.compile(r"(?:^|/)(?:\.|%2e){1,2}(?:/|$)|\\|%5c|%2f", re.IGNORECASE)


class Routes:
    def __init__(self, handlers: Sequence[HandlerConfig]) -> None:
        self._exact = {h.route: h for h in handlers if not h.route.endswith("*")}
        prefixes = [(h.route[:-1], h) for h in handlers if h.route.endswith("*")]
        self._prefixes = sorted(prefixes, key=lambda pair: -len(pair[0]))

    def match(self, path: str) -> HandlerConfig | None:
        """An exact route wins, then the longest prefix. None: nobody."""
        found = self._exact.get(path)
        if found is None and self._prefixes and not _DEVIOUS.search(path):
            for prefix, handler in self._prefixes:
                if path.startswith(prefix):
                    return handler
        return found
