"""A picture of the sines over the training: a ridge for each layer, a line for each step."""

from collections.abc import Sequence
import math
from pathlib import Path
from typing import Any

import numpy as np

from psann_jax.evals.figure import empty_figure
from psann_jax.evals.sine_report import Histogram, History, SineHistory, SineReport

LABELS = {
    "amplitude": "amplitude",
    "frequency": "frequency\n(radians per unit of z)",
    "damping": "damping\n(nepers per unit of envelope)",
    "phase": "phase |f z| (radians)",
}
_MOST_STEPS = 5
_RIDGE, _LEAST = 0.32, 1.5  # inches: a layer's height, and a panel's
_WIDTH = 3.4  # inches a panel
_HEIGHT = 0.92  # of a ridge over the distance to the next


def plot_sines(report: SineReport, path: Path) -> None:
    """Writes a PNG: a row of panels for each place of sines in a layer, a column a quantity.

    Each histogram has its own height, so that a narrow one and a wide one are both seen. Up to
    five steps are drawn, evenly chosen; the last one is filled.

    Raises:
      ValueError: matplotlib is not installed.
    """
    holders = list(dict.fromkeys(s.holder for s in report.sines))
    rows = [[s for s in report.sines if s.holder == holder] for holder in holders]
    heights = [max(_LEAST, _RIDGE * len(row)) for row in rows]
    size = _WIDTH * len(LABELS), sum(heights) + 0.4 * len(rows) + 1.0
    figure = empty_figure(path, size)
    panels = figure.subplots(
        len(rows), len(LABELS), squeeze=False, sharex="col", height_ratios=heights
    )
    chosen = _chosen(len(report.steps))
    for row, axes_of_row, holder in zip(rows, panels, holders, strict=True):
        for quantity, axes in zip(LABELS, axes_of_row, strict=True):
            _panel(axes, row, quantity, chosen)
        axes_of_row[0].set_ylabel(f"{holder}, by layer")
    for (quantity, label), axes in zip(LABELS.items(), panels[-1], strict=True):
        axes.set_xlabel(label)
        axes.set_xlim(*_limits([getattr(s, quantity) for s in report.sines], quantity))
    figure.align_xlabels()
    _explain(figure, report, chosen)
    figure.savefig(path, dpi=130)


def _panel(axes: Any, row: Sequence[SineHistory], quantity: str, chosen: list[int]) -> None:
    if quantity == "phase":
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        for place, name in ((math.pi / 2, "π/2"), (math.pi, "π")):
            axes.axvline(place, color="0.6", linewidth=0.8, linestyle=":")
            axes.annotate(name, (place, 1), xycoords=("data", "axes fraction"), fontsize=7)
    for level, sine in enumerate(row):
        history = getattr(sine, quantity)
        axes.axhline(level, color="0.9", linewidth=0.6, zorder=-level)
        for i in chosen:
            last = i == chosen[-1]
            style = {"color": _color(i, chosen), "linewidth": 1.1 if last else 0.8}
            line = _outline(history, history.steps[i], level)
            if line is None:
                continue
            axes.stairs(*line, baseline=None, zorder=2 + len(row) - level, **style)
            if last:
                filled = {"fill": True, "alpha": 0.18, "linewidth": 0, "zorder": 1.5}
                axes.stairs(*line, baseline=level, color=style["color"], **filled)
    axes.set_yticks(range(len(row)), [_layer(sine) for sine in row], fontsize=8)
    axes.set_ylim(-0.15, len(row) - 1 + _HEIGHT + 0.15)
    axes.tick_params(axis="x", labelsize=8)


def _outline(history: History, found: Histogram, level: int) -> Any:
    """Heights above `level` between edges; None where nothing was finite."""
    edges, counts = np.array(history.edges), np.array(found.counts, float)
    if history.unit == "radians":  # equal bins of the logarithm, but for what comes before them
        edges, counts = edges[1:], counts[1:]
    if not counts.any():
        return None
    seen = np.flatnonzero(counts)  # no line along the bottom where there is nothing
    first, last = max(seen[0] - 1, 0), min(seen[-1] + 2, len(counts))
    return level + _HEIGHT * counts[first:last] / counts.max(), edges[first : last + 1]


def _limits(histories: Sequence[History], quantity: str) -> tuple[float, float]:
    """From the least low quantile to the largest 99 %, and a little more."""
    least = "5" if quantity == "phase" else "1"
    quantiles = [h.quantiles for history in histories for h in history.steps if h.quantiles]
    low = min((q[least] for q in quantiles), default=0.1)
    high = max((q["99"] for q in quantiles), default=1.0)
    if quantity == "phase":
        return max(low, 1e-3) * 0.8, max(high, math.pi) * 1.3
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + room


def _explain(figure: Any, report: SineReport, chosen: list[int]) -> None:
    from matplotlib.lines import Line2D

    shown = [report.steps[i] for i in chosen]
    lines = [Line2D([], [], color=_color(i, chosen)) for i in chosen]
    names = ["saved model" if step is None else f"step {step:,}" for step in shown]
    n = len(report.steps)
    some = f"; {len(chosen)} of {n} steps" if len(chosen) < n else ""
    figure.suptitle(f"{report.model}: phases on {report.text}{some}", fontsize=10)
    figure.legend(lines, names, loc="outside lower center", ncols=len(names), frameon=False)


def _chosen(n: int) -> list[int]:
    """Which of n steps are drawn: the first, the last, and others evenly between."""
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, _MOST_STEPS))})


def _color(i: int, chosen: list[int]) -> Any:
    """From light to dark over the training, also in black and white."""
    from matplotlib import colormaps

    place = chosen.index(i) / max(1, len(chosen) - 1)
    return colormaps["viridis_r"](0.1 + 0.9 * place if len(chosen) > 1 else 0.9)


def _layer(sine: SineHistory) -> str:
    return "" if sine.layer is None else str(sine.layer)
