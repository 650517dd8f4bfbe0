"""What a sweep found: summary.json, summary.csv, leaderboard.md, and two pictures.

Speeds, run.sweep.TIMINGS, and machines are those of a run's last start; all else is the same
however often a sweep was broken.
"""

import collections
from collections.abc import Sequence
import csv
import dataclasses
import json
import math
from pathlib import Path
import statistics
from typing import Any

from psann_jax.evals.comparison import CONFIDENCE, Compared, compare
from psann_jax.evals.figure import empty_figure, line_style
from psann_jax.run.sweep import TIMINGS, Sweep
from psann_jax.run.sweep_result import LAST, Result, measured
from psann_jax.run.sweep_text import refuse_mixed_text, seen_by

_COLUMNS = ("variant", "seed", "value", "best", "diverged", "train_loss", *LAST)
_COLUMNS += ("parameters", "tokens", *TIMINGS, "base", "device", "code")


def write_summary(sweep: Sweep, results: Sequence[Result], folder: Path | None = None) -> str:
    """Writes the tables and pictures of the runs that are done; gives the table.

    They go to the sweep's own folder; to another one together with what each run came to.

    Raises:
      ValueError: the runs are of different texts.
    """
    refuse_mixed_text([seen_by(result) for result in results])
    results = [measured(result, sweep.metric) for result in results]
    rows = compare(_values(results), sweep.compared_with)
    table = leaderboard(rows, results, sweep.metric, sweep.compared_with)
    if folder:
        _keep_runs(results, folder / "runs")
    folder = folder or sweep.folder
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "metric": sweep.metric,
        "baseline": sweep.compared_with,
        "confidence": CONFIDENCE,
        "timings": TIMINGS,
        "machines": _machines(results),
        "texts": _texts(results),
        "variants": [_finite(dataclasses.asdict(row)) for row in rows],
        "runs": [_finite({key: r[key] for key in _COLUMNS}) for r in results],
    }
    (folder / "summary.json").write_text(json.dumps(content, indent=1) + "\n")
    with (folder / "summary.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(map(_finite, results))
    (folder / "leaderboard.md").write_text(table + "\n")
    _plot_means(rows, sweep, folder / "means.png")
    _plot_curves(results, sweep, folder / "curves.png")
    return table


def leaderboard(
    rows: Sequence[Compared], results: Sequence[Result], metric: str, baseline: str
) -> str:
    """The variants as a Markdown table, the best first, those that diverged last."""
    named = _by_variant(results)
    lines = [
        f"| variant | seeds | {metric} | ± {CONFIDENCE:.0%} | to {baseline} | p | parameters "
        "| tokens/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        own = named[row.variant]
        speeds = [r["tokens_per_s"] for r in own if r["tokens_per_s"] is not None]
        bad = sum(math.isnan(r["value"]) for r in own)
        cells = (
            row.variant,
            str(row.seeds),
            f"diverged ({bad} of {row.seeds})" if bad else f"{row.mean:.4f}",
            _said(row.half_width, ".4f"),
            "" if row.variant == baseline else _said(row.difference, "+.4f"),
            "" if row.variant == baseline else _said(row.p, ".3g"),
            f"{own[0]['parameters']:,}",
            f"{statistics.median(speeds):,.0f}" if speeds else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines + _versions(results))


def _versions(results: Sequence[Result]) -> list[str]:
    """A line under the table where the code has changed between the runs."""
    runs: dict[str, list[str]] = collections.defaultdict(list)
    for result in results:
        runs[result["code"]].append(f"{result['variant']}-{result['seed']}")
    if len(runs) < 2:
        return []
    said = "; ".join(f"{code[:8]}: {', '.join(names)}" for code, names in runs.items())
    return ["", f"The code changed between these runs, by its digest: {said}."]


def _machines(results: Sequence[Result]) -> list[Result]:
    """Date, device and packages of the runs, each once."""
    machines = [{**r["machine"], "device_kind": r["device"]} for r in results]
    found = {json.dumps(machine, sort_keys=True): machine for machine in machines}
    return [found[key] for key in sorted(found)]


def _texts(results: Sequence[Result]) -> list[Result]:
    """Digests of the rows that runs read, each once."""
    found = {json.dumps(r["data"], sort_keys=True): r["data"] for r in results}
    return [found[key] for key in sorted(found)]


def _keep_runs(results: Sequence[Result], folder: Path) -> None:
    """A file for each run, VARIANT-SEED.json: config, curve, text, machine."""
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        name = f"{result['variant']}-{result['seed']}.json"
        (folder / name).write_text(json.dumps(_finite(result)) + "\n")


def _values(results: Sequence[Result]) -> dict[str, dict[int, float]]:
    return {
        name: {r["seed"]: r["value"] for r in own} for name, own in _by_variant(results).items()
    }


def _by_variant(results: Sequence[Result]) -> dict[str, list[Result]]:
    named: dict[str, list[Result]] = collections.defaultdict(list)
    for result in results:
        named[result["variant"]].append(result)
    return named


def _said(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}


def _plot_means(rows: Sequence[Compared], sweep: Sweep, path: Path) -> None:
    """Each variant's mean and interval, if it has several seeds; the best at the top."""
    figure = empty_figure(path, (7, 0.8 + 0.35 * len(rows)))
    axes = figure.subplots()
    places = range(len(rows), 0, -1)
    widths = [row.half_width for row in rows]  # of one seed nan, which draws none
    means = [row.mean for row in rows]
    axes.errorbar(means, places, xerr=widths, fmt="o", color="black", capsize=3)
    axes.set_yticks(list(places), [row.variant for row in rows])
    axes.set_xlabel(f"{sweep.metric}, mean of the seeds and its {CONFIDENCE:.0%} interval")
    axes.grid(color="0.9")
    figure.savefig(path, dpi=150)


def _plot_curves(results: Sequence[Result], sweep: Sweep, path: Path) -> None:
    """The metric over steps, a line a variant: mean of its seeds, as far as all of them have it."""
    figure = empty_figure(path, (8, 5))
    axes = figure.subplots()
    for i, (name, own) in enumerate(_by_variant(results).items()):
        points: dict[int, list[float]] = collections.defaultdict(list)
        for row in (row for result in own for row in result["curve"]):
            if row.get(sweep.metric) is not None:
                points[row["step"]].append(row[sweep.metric])
        steps = sorted(step for step, found in points.items() if len(found) == len(own))
        means = [statistics.fmean(points[step]) for step in steps]
        axes.plot(steps, means, label=name, marker="o", markersize=3, **line_style(i))
    axes.set_xlabel("step")
    axes.set_ylabel(sweep.metric)
    axes.grid(color="0.9")
    axes.legend(frameon=False, ncols=2, fontsize="small")
    figure.savefig(path, dpi=150)
