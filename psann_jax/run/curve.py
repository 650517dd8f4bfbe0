"""The loss curve of a run as a picture, legible in black and white."""

from collections.abc import Sequence
import math
from pathlib import Path
from typing import Any

from psann_jax.evals.figure import empty_figure


def plot_losses(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes training and validation loss over steps, nats a token, as PNG."""
    figure = empty_figure(path, (7, 4))
    axes = figure.subplots()
    for key, label, color, marker in (
        ("loss", "training", "0.55", ""),
        ("val_loss", "validation", "black", "o"),
    ):
        points = [(r["step"], r[key]) for r in rows if math.isfinite(r.get(key, math.nan))]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, color=color, marker=marker)
    axes.set_xlabel("step")
    axes.set_ylabel("cross-entropy (nats per token)")
    axes.grid(color="0.9")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
