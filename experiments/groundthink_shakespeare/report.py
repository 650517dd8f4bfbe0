"""results/*.json as a table and pictures."""

from collections import defaultdict
import json
from pathlib import Path
import statistics
from typing import Any

Result = dict[str, Any]
_STYLES = ("-", "--", ":", "-.")


def write_report(folder: Path) -> None:
    """Writes results.md, and curves-TASK-SIZE.png of each task and size that has results."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        groups[result["task"], result["size"]].append(result)
    tables = []
    for (task, size), members in groups.items():
        tables.append(_table(task, size, members))
        _plot(members, folder / f"curves-{task}-{size}.png")
    (folder / "results.md").write_text("\n\n".join(tables) + "\n")


def _table(task: str, size: str, results: list[Result]) -> str:
    first, named = results[0], _by_name(results)
    tokens = first["steps"] * first["tokens_per_step"]
    head = (
        f"## {task}, {size}: {first['steps']:,} steps of {first['tokens_per_step']:,} characters "
        f"({tokens / 1e6:.1f} M)\n\n"
        "| model | parameters | seeds | validation, nats | spread | carried | best | train "
        "| tokens/s | gradient RWKV/Mamba |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    means = {name: _mean(rs, "val_loss") for name, rs in named.items()}
    rows = [_row(name, named[name]) for name in sorted(named, key=lambda n: means[n] or 9e9)]
    return "\n".join([head, *rows])


def _row(name: str, results: list[Result]) -> str:
    losses = [r["val_loss"] for r in results]
    spread = f"{statistics.stdev(losses):.3f}" if len(losses) > 1 else ""
    cells = [
        name,
        f"{results[0]['parameters']:,}",
        str(len(results)),
        _said(_mean(results, "val_loss")),
        spread,
        _said(_mean(results, "val_loss_carried")),
        _said(_mean(results, "best_val_loss")),
        _said(_mean(results, "train_loss")),
        f"{_mean(results, 'tokens_per_s') or 0:,.0f}",
        _said(_mean(results, "grad_ratio"), digits=2),
    ]
    return "| " + " | ".join(cells) + " |"


def _by_name(results: list[Result]) -> dict[str, list[Result]]:
    named: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        named[result["name"]].append(result)
    return named


def _mean(results: list[Result], key: str) -> float | None:
    values = [r[key] for r in results if r[key] is not None]
    return statistics.fmean(values) if values else None


def _said(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _plot(results: list[Result], path: Path) -> None:
    """Validation loss over characters read, a line a model: mean of its seeds."""
    from matplotlib.figure import Figure  # of no backend

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    named = _by_name(results)
    for i, (name, members) in enumerate(named.items()):
        style = {"linestyle": _STYLES[i % 4], "color": str(0.2 * (i // 4))}
        axes.plot(*_curve(members, "val_loss"), label=name, marker="o", markersize=3, **style)
    if len(named) == 1:
        for key, label, color in (
            ("loss", "training", "0.6"),
            ("val_loss_carried", "validation, states carried", "0.4"),
        ):
            axes.plot(*_curve(results, key), label=label, color=color, linestyle="--")
    axes.set_xlabel("characters read (millions)")
    axes.set_ylabel("cross-entropy (nats per character)")
    lowest = "loss" if len(named) == 1 else "val_loss"
    low = min(min(_curve(members, lowest)[1]) for members in named.values())
    axes.set_ylim(low - 0.05, low + 1.3)  # what is above it belongs to the first steps
    axes.grid(color="0.9")
    axes.legend(frameon=False, ncols=2)
    figure.savefig(path, dpi=150)


def _curve(results: list[Result], key: str) -> tuple[list[float], list[float]]:
    points: dict[float, list[float]] = defaultdict(list)
    for result in results:
        for row in result["curve"]:
            if key in row:
                points[row["step"] * result["tokens_per_step"] / 1e6].append(row[key])
    return list(points), [statistics.fmean(values) for values in points.values()]
