"""Worlds in virtual time for stories. What they cost is told at the end of the run: `tests/conftest.py`."""

from __future__ import annotations

import pytest

from sim.world import Plan, play


@pytest.fixture(scope="session")
def keys_dir(tmp_path_factory):
    """The routers' secrets: made once, because an RSA key takes longer than an hour of simulated life."""
    return tmp_path_factory.mktemp("world") / "keys"


@pytest.fixture
def tell(keys_dir, record_property):
    """tell(story, **plan) -> Report. Fails when a rule was broken."""

    def told(story, **plan):
        report = play(story, Plan(keys_dir=keys_dir, **plan))
        record_property("world", [report.hours, report.requests, report.decisions, report.cpu_s])
        return report

    return told
