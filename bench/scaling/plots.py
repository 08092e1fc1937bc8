"""Cost against attainment, one plot per trace."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

from bench.scaling.compare import GOAL, frontier
from bench.scaling.measured import Measured

OURS_COLOUR, PEER_COLOUR, LINE_COLOUR, TEXT_COLOUR = "#c2410c", "#94a3b8", "#334155", "#475569"
#: What attains less is of no interest.
LEAST_ATTAINMENT = 0.85
STYLE = {
    "svg.fonttype": "none",  # text stays text: small files, the reader's own font
    "svg.hashsalt": "corral",  # the same plot gives the same file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": TEXT_COLOUR,
    "axes.labelcolor": TEXT_COLOUR,
    "xtick.color": TEXT_COLOUR,
    "ytick.color": TEXT_COLOUR,
}


def plot(measured: Measured, trace: str, path: Path) -> None:
    """Write one SVG. Knobs under the first seed; defaults and ours on the mean of the seeds, ours with its range."""
    ours = measured.table.get(trace)
    peers = [one for one in measured.table.peers(trace) if one.attainment >= LEAST_ATTAINMENT]
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
        knobs = [one for one in peers if one.setting.knob is not None]
        defaults = [one for one in peers if one.setting.knob is None]
        axes.scatter(
            [one.hot_h for one in knobs],
            [one.attainment for one in knobs],
            s=9,
            color=PEER_COLOUR,
            label="peers, all knobs",
            zorder=2,
        )
        axes.scatter(
            [one.hot_h for one in defaults], [one.attainment for one in defaults],
            s=40, facecolor="white", edgecolor=LINE_COLOUR, label="peers at their defaults", zorder=3,
        )  # fmt: skip
        for number, one in enumerate(defaults, 1):
            at = (one.hot_h, one.attainment)
            axes.annotate(str(number), at, ha="center", va="center_baseline", fontsize=5, color=LINE_COLOUR, zorder=4)
        names = "\n".join(f"{number} {one.setting.policy}" for number, one in enumerate(defaults, 1))
        axes.text(1.02, 1.0, names, transform=axes.transAxes, va="top", fontsize=6, color=TEXT_COLOUR)
        best = frontier((one.hot_h, one.attainment) for one in peers)
        axes.step(
            [cost for cost, _ in best],
            [share for _, share in best],
            where="post",
            color=LINE_COLOUR,
            lw=1,
            label="frontier of the peers",
        )
        if ours is not None:
            spread = [[ours.attainment - ours.attained.low], [ours.attained.high - ours.attainment]]
            axes.errorbar([ours.hot_h], [ours.attainment], yerr=spread, color=OURS_COLOUR, lw=1, zorder=4)
            axes.scatter(
                [ours.hot_h],
                [ours.attainment],
                s=70,
                marker="*",
                color=OURS_COLOUR,
                label="Corral, its one configuration",
                zorder=5,
            )
        bound_h = measured.bounds.get(trace)
        if bound_h is not None:
            axes.axvline(bound_h, color=LINE_COLOUR, lw=0.8, ls=":", label="offline bound for .95")
        axes.axhline(GOAL, color=TEXT_COLOUR, lw=0.5)
        axes.set_xscale("log")
        axes.set_ylim(LEAST_ATTAINMENT, 1.005)
        axes.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
        axes.xaxis.set_minor_formatter(mpl.ticker.FormatStrFormatter("%g"))
        axes.tick_params(which="minor", labelsize=6)
        axes.set_xlabel("hot GPU-hours")
        axes.set_ylabel("share of requests begun within 5 s")
        axes.set_title(trace, fontsize=9, loc="left", color=LINE_COLOUR)
        axes.legend(fontsize=6, frameon=False, loc="lower right")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        plt.close(figure)
