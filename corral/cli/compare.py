"""Worker groups side by side as lines of a table: one line a figure, one column a group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from corral.errors import ConfigError

from .show import ago, seconds

Group = dict[str, Any]


def chosen(groups: Sequence[Group], named: Sequence[str]) -> list[Group]:
    """Those that were named, in that order; all when none was. Raises ConfigError."""
    if not named:
        return list(groups)
    found = []
    for name in named:
        group = next((g for g in groups if name in (g["name"], str(g["id"]), f"#{g['id']}")), None)
        if group is None:
            known = ", ".join(g["name"] or f"#{g['id']}" for g in groups)
            raise ConfigError(f"no group {name!r} in this endpoint", f"it has {known}")
        found.append(group)
    return found


def rows(groups: Sequence[Group]) -> list[dict[str, str]]:
    """Keys: `what`, and each group's number as text. A line that says nothing of any group is left out."""
    found = []
    for what, told in _LINES:
        cells = {str(group["id"]): told(group) for group in groups}
        if any(cell != "-" for cell in cells.values()):
            found.append({"what": what, **cells})
    return found


def _number(key: str, unit: str = "") -> Callable[[Group], str]:
    return lambda group: "-" if group[key] is None else f"{group[key]:.6g}{unit}"


def _time(key: str) -> Callable[[Group], str]:
    return lambda group: seconds(group[key])


def _share(key: str) -> Callable[[Group], str]:
    return lambda group: "-" if group[key] is None else f"{group[key]:.1%}"


def _usd(key: str) -> Callable[[Group], str]:
    return lambda group: "-" if group[key] is None else f"${group[key]:.4g}"


def _workers(group: Group) -> str:
    failed = f", {group['failed_workers']} failed" if group["failed_workers"] else ""
    return f"{group['ready']} ready, {group['coming']} coming, {group['cold']} cold{failed}"


def _perf(group: Group) -> str:
    if group["perf"] is None:
        return "-"
    spread = "" if group["perf_min"] == group["perf_max"] else f" ({group['perf_min']:.4g} to {group['perf_max']:.4g})"
    return f"{group['perf']:.4g}/s{spread}"


def _traffic(group: Group) -> str:
    got, due = group["traffic_share"], group["weight_share"]
    if got is None and due is None:
        return "-"
    changed_at = group.get("weights_changed_at")  # not told by an older router
    since = "" if changed_at is None else f", weights changed {ago(changed_at)}"
    return f"{'-' if got is None else f'{got:.1%}'} of {'-' if due is None else f'{due:.1%}'}{since}"


def _starts(group: Group) -> str:
    if not group["starts_ok"] and not group["starts_failed"]:
        return "-"
    causes = ", ".join(f"{count} {cause}" for cause, count in sorted(group["failures"].items()))
    return f"{group['starts_ok']} ok, {group['starts_failed']} failed" + (f" ({causes})" if causes else "")


def _halted(group: Group) -> str:
    return group["halted"]["cause"] if group.get("halted") else "-"


_LINES: tuple[tuple[str, Callable[[Group], str]], ...] = (
    ("template", lambda group: f"{group['template']} (revision {group['revision']})"),
    ("tier, weight", lambda group: f"{group['tier']}, {group['weight']:g}"),
    ("halted", _halted),
    ("workers", _workers),
    ("perf, measured", _perf),
    ("price of an hour", _usd("usd_per_hour")),
    ("$ per million units, delivered", _usd("usd_per_million_units")),
    ("$ per million units, at full use", _usd("usd_per_million_units_at_best")),
    ("spent while hot", _usd("cost_usd")),
    ("spent on storage", lambda group: _usd("storage_usd")(group) if group["storage_usd"] else "-"),
    ("requests accepted", _number("requests")),
    ("traffic got of its weight's share", _traffic),
    ("served", _number("served")),
    ("units served", _number("served_units")),
    ("failed by the model", _number("failed")),
    ("errors", _share("error_ratio")),
    ("left by clients", lambda group: _number("cancelled")(group) if group["cancelled"] else "-"),
    ("refused by workers", lambda group: _number("rejected")(group) if group["rejected"] else "-"),
    ("time at the model, mean", _time("service_mean_s")),
    ("wait in workers' queues, mean", _time("queue_mean_s")),
    ("tickets given out here", _number("routed")),
    ("came back from a worker", lambda group: _number("rerouted")(group) if group["rerouted"] else "-"),
    ("wait for a worker, mean", _time("wait_mean_s")),
    ("wait for a worker, p50", _time("wait_p50_s")),
    ("wait for a worker, p95", _time("wait_p95_s")),
    ("starts", _starts),
    ("start anew, median", _time("boot_new_p50_s")),
    ("start from cold, median", _time("boot_cold_p50_s")),
    ("longest start", _time("boot_max_s")),
)
