"""A report of runs: their curves as a picture and a CSV, and what each came to."""

from collections.abc import Mapping, Sequence
import csv
import json
import math
import os
from pathlib import Path
from typing import Any

from psann_jax.config import to_json
from psann_jax.evals.figure import empty_figure, line_style
from psann_jax.run.figures import figures, read_json, said_of, totals
from psann_jax.run.workdir import Workdir
from psann_jax.train.metrics import perplexity, read_metrics

AXES = {"step": "step", "tokens": "tokens", "seconds": "seconds of training steps"}
_PANELS = ("cross-entropy (nats per token)", "validation bits per byte")
_COLUMNS = ("run", "epoch", "step", "tokens", "seconds", "loss", "val_loss", "val_bits_per_byte")
_COLUMNS += ("lr", "grad_norm", "tokens_per_s", "skipped_steps")

Row = dict[str, Any]


def write_report(paths: Sequence[str | os.PathLike], folder: Path, x: str = "tokens") -> str:
    """Writes what the files of the runs say, and gives the table.

    In the folder: curves.png and curves.csv of all runs, report.md with a row for each, and for
    each run its metrics.json and config_used.json, in a folder of the run's name.

    Args:
      paths: workdirs of different names.
      x: what curves are drawn over, one of AXES.

    Raises:
      ValueError: a folder that is no run's or has no metrics, or two of one name; no such x; or
        matplotlib is missing. Nothing is written then.
    """
    if x not in AXES:
        raise ValueError(f"x={x!r} must be one of {', '.join(AXES)}")
    empty_figure(folder / "curves.png", (1, 1))  # before anything is written
    runs = {}
    for workdir in map(Workdir, paths):
        name = workdir.path.resolve().name
        if name in runs:
            raise ValueError(f"two runs are called {name}; rename the folder of one of them")
        runs[name] = workdir
    configs = {name: to_json(workdir.saved_config()) for name, workdir in runs.items()}
    curves = {name: curve(workdir) for name, workdir in runs.items()}
    found = {name: summary(workdir) for name, workdir in runs.items()}
    for name in runs:
        own = folder / name
        own.mkdir(parents=True, exist_ok=True)
        (own / "metrics.json").write_text(json.dumps(found[name], indent=1) + "\n")
        (own / "config_used.json").write_text(configs[name])
    with (folder / "curves.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({"run": n, **row} for n, rows in curves.items() for row in rows)
    plot_curves(curves, folder / "curves.png", x)
    text = table(found)
    (folder / "report.md").write_text(text + "\n")
    return text


def curve(workdir: Workdir) -> list[Row]:
    """The logged steps of a run, with tokens and seconds of steps since its first.

    `epoch` counts passes over the training tokens.

    Raises:
      ValueError: the run has not logged a step yet.
    """
    rows = read_metrics(workdir.metrics)
    if not rows:
        raise ValueError(f"{workdir.metrics} has no step yet; train the run first")
    size = read_json(workdir.data).get("train_tokens") or math.nan
    return [
        {
            **row,
            "epoch": round(tokens / size, 4),
            "tokens": round(tokens),
            "seconds": round(seconds, 3),
        }
        for row, (tokens, seconds) in zip(rows, totals(rows), strict=True)
    ]


def summary(workdir: Workdir) -> Row:
    """What a run came to: losses and what follows from them, sizes, speed, text, seed, machine.

    `train_loss` is that of the last step alone, `val_loss` the last that was taken.
    """
    found, config = figures(workdir), workdir.saved_config()
    last: Row = {}
    for row in found.pop("curve"):
        last |= {name: value for name, value in row.items() if name.startswith("val_")}
    loss = last.get("val_loss")
    return {
        "train_loss": found.pop("train_loss"),
        "val_loss": loss,
        "perplexity": None if loss is None else perplexity(loss),
        "bits_per_byte": last.get("val_bits_per_byte"),
        "top1_accuracy": last.get("val_top1_acc"),
        "corpus_path": list(config.data.sources) or None,
        "seed": config.train.seed,
        "vocab_size": config.base.vocab_size,
        "train_seconds": found.pop("step_seconds"),
        **found,
    }


def table(found: Mapping[str, Row]) -> str:
    """The runs as a Markdown table in the order given, and below it where each ran.

    The hours are those of training steps alone.
    """
    lines = [
        "| run | parameters | tokens | train loss | val loss | perplexity | bits per byte "
        "| tokens/s | hours |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, run in found.items():
        cells = (
            f"{run['parameters']:,}",
            f"{run['tokens']:,}",
            *(_said(run[key], ".4f") for key in ("train_loss", "val_loss")),
            _said(run["perplexity"], ",.2f"),
            _said(run["bits_per_byte"], ".4f"),
            _said(run["tokens_per_s"], ",.0f"),
            _said(run["train_seconds"] / 3600, ".2f"),
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    where = {name: f"seed {run['seed']}, {said_of(run['machine'])}" for name, run in found.items()}
    return "\n".join([*lines, "", *(f"- {name}: {said}" for name, said in where.items())])


def _said(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def plot_curves(curves: Mapping[str, Sequence[Row]], path: Path, x: str = "tokens") -> None:
    """Losses of each run, and beside them its validation bits per byte, where it has any, as PNG.

    Training is drawn thin, validation with marks; runs differ by dashes and grey.
    """
    validated = any("val_bits_per_byte" in row for rows in curves.values() for row in rows)
    figure = empty_figure(path, (11 if validated else 6, 4.5))
    panels = figure.subplots(1, 2 if validated else 1, squeeze=False)[0]
    for i, (name, rows) in enumerate(curves.items()):
        style = line_style(i)
        _draw(panels[0], rows, x, "loss", label=f"{name}, training", linewidth=0.6, **style)
        marked = {"marker": "o", "markersize": 3, **style}
        _draw(panels[0], rows, x, "val_loss", label=f"{name}, validation", **marked)
        if validated:
            _draw(panels[1], rows, x, "val_bits_per_byte", label=name, **marked)
    for panel, label in zip(panels, _PANELS, strict=False):
        panel.set_xlabel(AXES[x])
        panel.set_ylabel(label)
        panel.grid(color="0.9")
        if panel.lines:
            panel.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)


def _draw(axes: Any, rows: Sequence[Row], x: str, y: str, **style: Any) -> None:
    points = [(row[x], row[y]) for row in rows if math.isfinite(row.get(y, math.nan))]
    if points:
        axes.plot(*zip(*points, strict=True), **style)
