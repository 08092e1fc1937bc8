"""Worlds in virtual time for stories, and what they cost in the end."""

from __future__ import annotations

import pytest

from sim.world import Plan, Report, play

_told: list[tuple[str, Report]] = []


@pytest.fixture(scope="session")
def keys_dir(tmp_path_factory):
    """The routers' secrets: made once, because an RSA key takes longer than an hour of simulated life."""
    return tmp_path_factory.mktemp("world") / "keys"


@pytest.fixture
def tell(keys_dir, request):
    """tell(story, **plan) -> Report. Fails when a rule was broken."""

    def told(story, **plan):
        report = play(story, Plan(keys_dir=keys_dir, **plan))
        _told.append((request.node.name, report))
        return report

    return told


def pytest_terminal_summary(terminalreporter):
    if not _told:
        return
    hours, cpu_s = sum(report.hours for _, report in _told), sum(report.cpu_s for _, report in _told)
    requests = sum(report.requests for _, report in _told)
    terminalreporter.write_line(f"worlds: {hours:.1f} simulated hours with {requests} requests in {cpu_s:.1f} s of one core")
    for name, report in sorted(_told, key=lambda pair: -pair[1].cpu_s) if terminalreporter.verbosity > 0 else ():
        terminalreporter.write_line(
            f"  {report.cpu_s:6.2f} s {report.hours:7.2f} h {report.requests:6d} requests {report.decisions:5d} decisions  {name}"
        )
