"""The heat map of a needle report: a column a length, a row a depth."""

from pathlib import Path

import numpy as np

from psann_jax.evals.figure import empty_figure
from psann_jax.evals.needle_report import NeedleReport

_CELL = 0.75, 0.55  # inches


def plot_needles(report: NeedleReport, path: Path) -> None:
    """Writes a PNG: the score in percent in each cell, dark where the needle is found.

    A dashed line parts the lengths that fit into a training row from those beyond it.

    Raises:
      ValueError: matplotlib is not installed.
    """
    lengths, depths = report.lengths, report.depths
    scores = np.array([[report.at(n, d).score for n in lengths] for d in depths])  # [depths, n]
    size = 2.2 + _CELL[0] * len(lengths), 1.9 + _CELL[1] * len(depths)
    figure = empty_figure(path, size)
    axes = figure.subplots()
    axes.imshow(scores, cmap="Greys", vmin=0, vmax=1.3, aspect="auto")  # a line shows on 1.0
    for (row, column), score in np.ndenumerate(scores):
        color = "white" if score > 0.7 else "black"
        axes.text(column, row, f"{100 * score:.0f}", ha="center", va="center", color=color)
    fitting = sum(n <= report.trained_length for n in lengths)
    axes.axvline(fitting - 0.5, color="black", linestyle="--", linewidth=1.5)
    axes.annotate(
        f"trained on {report.trained_length:,}",
        (fitting - 0.5, 1.01),
        xycoords=("data", "axes fraction"),
        ha="center",
        va="bottom",
        fontsize=8,
    )
    axes.set_xticks(range(len(lengths)), [f"{n:,}" for n in lengths], rotation=45)
    axes.set_yticks(range(len(depths)), [f"{d:g}" for d in depths])
    axes.set_xlabel("length of the prompt (tokens)")
    axes.set_ylabel("depth of the needle (%)")
    title = f"{report.model}\nneedles found (%); chance {100 * report.chance:.2g} %"
    axes.set_title(title, fontsize=10, pad=16)
    figure.savefig(path, dpi=130)
