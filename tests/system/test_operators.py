"""What an operator asks of a running house: two kinds of hardware side by side, why, whether it is true, and a word of one's own."""

import asyncio
import json
import time

import aiohttp
import pytest
from conftest_system import ROOT, Installation
from typer.testing import CliRunner

from corral.cli.app import app

pytestmark = pytest.mark.timeout(180)

ECHO = ROOT / "examples" / "echo"
#: Months from now: a schedule that held while the test runs would buy what the override is to buy.
CRON = f"0 8 1 {(time.gmtime().tm_mon + 5) % 12 + 1} *"
#: The fast machine makes a token in 2 ms, eight at once, for $2 an hour; the slow one in 10 ms, two at once, for 50 cents.
TWO_KINDS = f"""
kind: Template
name: fast
command: [python, worker.py]
cwd: {ECHO}
env: {{ECHO_LOAD_S: "0.1", ECHO_TOKEN_S: "0.002", ECHO_SLOTS: "8"}}
start_timeout_s: 60
---
kind: Template
name: slow
command: [python, worker.py]
cwd: {ECHO}
env: {{ECHO_LOAD_S: "0.1", ECHO_TOKEN_S: "0.01", ECHO_SLOTS: "2"}}
start_timeout_s: 60
---
kind: Template
name: broken
command: [python, -c, "raise SystemExit(3)"]
cwd: {ECHO}
start_timeout_s: 60
---
kind: Endpoint
name: two
max_workers: 4
inactivity_timeout: 600
schedules:
  - {{cron: "{CRON}", lasts_s: 36000, hot_min: 1, time_zone: Europe/Berlin}}
groups:
  - {{name: big, template: fast, weight: 1, usd_per_hour: 2.0}}
  - {{name: small, template: slow, weight: 1, usd_per_hour: 0.5}}
---
kind: Endpoint
name: broken
max_workers: 1
groups:
  - {{name: hopeless, template: broken}}
"""


class House(Installation):
    """Commands run in this process: starting Python for each is what would take long."""

    def run(self, *argv, ok=True) -> str:
        done = CliRunner().invoke(app, [*map(str, argv)], env={**self.environment(), "COLUMNS": "300", "NO_COLOR": "1"})
        assert ok is None or (done.exit_code == 0) == ok, (
            f"corral {argv}: {done.exit_code} {done.stdout}{done.stderr} {done.exception!r}"
        )
        return done.stdout

    def told(self, *argv, ok=True):
        return json.loads(self.run(*argv, "--json", ok=ok))

    def ask(self, endpoint, count, wait_s=30.0):
        return asyncio.run(self._ask(endpoint, count, wait_s))

    async def _ask(self, endpoint, count, wait_s):
        async with aiohttp.ClientSession() as client:
            return [await self._one(client, endpoint, wait_s) for _ in range(count)]

    async def _one(self, client, endpoint, wait_s):
        status, route = await self.api("POST", "/route/", json={"endpoint": endpoint, "cost": 8.0, "wait_s": wait_s})
        if status != 200 or "url" not in route:
            return None
        headers = {"Authorization": f"Bearer {route['ticket']}"}
        async with client.post(route["url"] + "/generate", json={"prompt": "x", "max_tokens": 8}, headers=headers) as answer:
            return answer.status


def until(check, deadline_s, what):
    """The first true answer."""
    end = time.monotonic() + deadline_s
    while not (found := check()):
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A house with an endpoint of two groups, each with one worker that is ready, because somebody said so."""
    home = tmp_path_factory.mktemp("operators")
    made = House(home / "corral")
    try:
        asyncio.run(made.start())
        made.manifest = home / "two.yaml"
        made.manifest.write_text(TWO_KINDS)
        made.run("apply", "--yes", "-f", made.manifest)
        made.ask("broken", 1, wait_s=0.1)  # wakes what cannot wake, while the rest goes on
        made.run("endpoint", "override", "two", "--min", 2, "--for", "30m", "--reason", "to compare")
        until(lambda: [w["state"] for w in made.told("worker", "list", "-e", "two")] == ["ready"] * 2, 60, "both are ready")
        yield made
    finally:
        made.kill()


def test_two_kinds_of_hardware_side_by_side(two):
    assert two.ask("two", 24) == [200] * 24

    def counted():
        found = two.told("group", "compare", "two", "--since", "10m")["groups"]
        return found if sum(group["served"] for group in found) == 24 else None

    big, small = until(counted, 20, "heartbeats have told it")
    assert (big["name"], small["name"]) == ("big", "small")
    assert big["perf"] > 4 * small["perf"] > 0, "measured, each on its own"
    assert (big["usd_per_hour"], small["usd_per_hour"]) == (2.0, 0.5)
    assert big["usd_per_million_units_at_best"] < small["usd_per_million_units_at_best"], "the dear one is the cheap one"
    assert big["usd_per_million_units"] > small["usd_per_million_units"] > 0, "but not while it is hardly used"
    assert (big["requests"], small["requests"]) == (12, 12), "one to one, as the weights say"
    assert (big["traffic_share"], big["weight_share"]) == (0.5, 0.5)
    assert 0.01 < big["service_mean_s"] < small["service_mean_s"]
    assert big["wait_p95_s"] is not None
    assert small["wait_p95_s"] is not None
    assert (big["error_ratio"], small["error_ratio"]) == (0.0, 0.0)
    assert (big["starts_ok"], small["starts_ok"]) == (1, 1)
    assert big["boot_new_p50_s"] > 0
    table = two.run("group", "compare", "two", "small", "big")
    assert table.splitlines()[0].split() == ["small", f"(#{small['id']})", "big", f"(#{big['id']})"]
    for line in ("perf, measured", "$ per million units, delivered", "wait for a worker, p95", "errors", "start anew, median"):
        assert line in table
    two.run("group", "compare", "two", "nobody", ok=False)


def test_the_override_is_shown_and_is_why(two):
    shown = two.told("endpoint", "get", "two")
    assert (shown["override"]["owner"], shown["override"]["hot_min"], shown["override"]["reason"]) == ("admin", 2, "to compare")
    words = two.run("endpoint", "get", "two")
    assert "at least 2 hot, by admin, until" in words
    assert f"at least 1 hot for 10.0 h from {CRON} (Europe/Berlin)" in words
    why = two.told("why", "two")
    assert why["endpoint"] == "two"
    assert any(seen["name"] == "override_floor" and seen["value"] == 2 for seen in why["seen"])
    assert why["check"]["outcome"] == "equal"
    again = two.told("explain", "decision", why["decision_id"])
    assert (again["sentence"], again["seen"]) == (why["sentence"], why["seen"])


def test_a_decision_in_words(two):
    lines = two.run("events", "tail", "--json", "--no-follow", "--since", "1h", "--kind", "decision", "-e", "two").splitlines()
    bought = next(json.loads(line) for line in lines if '"create"' in line)
    words = two.run("explain", "decision", bought["decision_id"])
    for part in (bought["decision_id"], "admin asks for at least 2 (to compare)", "create w", "since the decision before",
                 "policy ensemble/", "new in KV_corral_endpoints", "✓ its recorded input gives it again"):  # fmt: skip
        assert part in words, words
    two.run("explain", "decision", "e1.g999999", ok=False)
    two.run("explain", "decision", "nonsense", ok=False)


def test_every_recorded_decision_is_derived_again(two, tmp_path):
    summary = two.told("replay", "--verify")
    assert summary["ok"] is True
    assert summary["outcomes"] == {"equal": summary["decisions"]}
    assert summary["endpoints"] == 2
    one = two.told("replay", "--verify", "two", "--from", "1h")
    assert 0 < one["decisions"] < summary["decisions"]
    # ... and from a file, in which one is forged
    recorded = tmp_path / "events.jsonl"
    recorded.write_text(two.run("events", "tail", "--json", "--no-follow", "--since", "1h"))
    assert "equal" in two.run("replay", "--verify", "--file", recorded)
    lines = recorded.read_text().splitlines()
    index = next(n for n, line in enumerate(lines) if '"create"' in line and '"decision"' in line)
    forged = json.loads(lines[index])
    lines[index] = lines[index].replace(f'"hot_wanted":{forged["hot_wanted"]}', '"hot_wanted":9', 1)
    recorded.write_text("\n".join(lines))
    found = two.told("replay", "--verify", "-f", recorded, ok=False)
    assert found["ok"] is False
    assert (found["first_wrong"]["field"], found["first_wrong"]["told"]) == ("hot_wanted", "9")
    assert found["first_wrong"]["decision_id"] == forged["decision_id"]


def test_a_halted_group_says_what_it_cost_and_is_tried_again_when_somebody_says_so(two):
    def group():
        two.ask("broken", 1, wait_s=0.1)
        return two.told("group", "list", "-e", "broken")[0]

    halted = until(lambda: found if "halted" in (found := group()) else None, 60, "three starts failed")
    number = halted["id"]
    assert halted["halted"]["failures"] >= 3
    assert "failed starts in a row, $0.00 spent on them: start_crash" in two.run("group", "get", number)
    assert "start_crash" in two.run("group", "compare", "broken")
    starts = two.told("group", "compare", "broken")["groups"][0]["starts_failed"]
    assert "is tried again; it was halted" in two.run("group", "resume", number, "--reason", "mended")

    def tried_again():
        two.ask("broken", 1, wait_s=0.1)
        return two.told("group", "compare", "broken")["groups"][0]["starts_failed"] > starts

    until(tried_again, 40, "it was started once more")
    assert "by admin: mended" in two.run("events", "tail", "--no-follow", "--since", "1h", "--kind", "group_resumed")


def test_what_somebody_said_can_be_taken_back_and_the_files_leave_it_alone(two):
    two.run("plan", "-f", two.manifest)  # fails if anything would change
    two.run("endpoint", "override", "two", "--min", 2, ok=False)  # why?
    two.run("endpoint", "override", "two", "--reason", "x", ok=False)  # what?
    assert "the override of admin is over" in two.run("endpoint", "override", "two", "--clear")
    assert "no override held" in two.run("endpoint", "override", "two", "--clear")
    assert "override" not in two.told("endpoint", "get", "two")
    assert "admin cleared the override" in two.run("events", "tail", "--no-follow", "--since", "1h", "-e", "two")
