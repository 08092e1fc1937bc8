"""Puts a private copy of schemas/ into the wheel's pyworker (see docs/adr/0002-wheel-layout.md)."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PackagingHook(BuildHookInterface):  # type: ignore[type-arg]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        for source in sorted((Path(self.root) / "schemas").glob("*.py")):
            if source.name != "generate.py":
                build_data["force_include"][str(source)] = f"pyworker/_schemas/{source.name}"
