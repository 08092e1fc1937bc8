"""What a newcomer sees first: the demo, on the real model, with the summary that it promises."""

import json
import subprocess
import sys

import pytest


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_goes_from_zero_up_and_back_without_an_error():
    done = subprocess.run(
        [sys.executable, "-m", "corral.demo", "--json"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    told = done.stderr[-6000:]
    assert done.returncode == 0, told
    assert "demo: ok" in done.stderr
    (line,) = done.stdout.splitlines()
    summary = json.loads(line)
    assert summary["ok"] is True
    assert summary["errors"] == 0
    assert summary["requests"] >= 10
    assert summary["tokens"] > 100
    assert summary["first_cold_start"] is True
    assert summary["most_ready"] >= 2, "the burst made it add workers"
    assert summary["hot_at_end"] == 0, "quiet brought it down"
    decisions = summary["decisions"]
    assert all(decision["reason"] for decision in decisions), "every decision says why"
    assert {"demand_waiting"} <= {decision["why"] for decision in decisions}
