"""Fixtures: a whole installation in real processes; see conftest_system."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests are no packages; see tests/test_architecture.py

from conftest_system import ECHO, Installation  # noqa: E402


@pytest.fixture
def installation(tmp_path):
    """Running, empty, for one test; everything of it is killed afterwards."""
    made = Installation(tmp_path / "corral")
    try:
        asyncio.run(made.start())
        yield made
    finally:
        made.kill()


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Running, with the echo endpoint, for all tests of a file."""
    made = Installation(tmp_path_factory.mktemp("house") / "corral")
    try:
        asyncio.run(made.start())
        made.corral("apply", "--yes", "-f", str(ECHO))
        yield made
    finally:
        made.kill()
