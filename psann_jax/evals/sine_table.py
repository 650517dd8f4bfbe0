"""A sine report as text: a line a sine."""

from typing import Any

from psann_jax.evals.sine_report import SineReport
from psann_jax.nn.sine import PARAMETERS

_PHASE = ("median", "99 %", ">pi/2", ">pi", "exp(-d g)")
_GAP = "  "


def sine_table(report: SineReport) -> str:
    """The sines at the report's last step, below a line that says what was measured.

    Of each parameter: mean and deviation over features, how far the mean has moved since the
    first step, and the share at a bound where some are. Of the phases in radians: quantiles,
    shares, and the mean damping factor.
    """
    cells = [[sine.name] for sine in report.sines]
    names, groups = [""], [("", 1)]
    for parameter in PARAMETERS:
        columns = _parameter_columns([getattr(s, parameter).steps for s in report.sines])
        groups.append((parameter, len(columns)))
        names += columns
        for line, values in zip(cells, zip(*columns.values(), strict=True), strict=True):
            line += values
    groups.append(("phase |f z|, radians", len(_PHASE)))
    for line, sine in zip(cells, report.sines, strict=True):
        line += _phase_cells(sine.phase.steps[-1])
    return f"{_headline(report)}\n{_laid_out(groups, [[*names, *_PHASE], *cells])}"


def _headline(report: SineReport) -> str:
    steps = [f"{step:,}" for step in report.steps if step is not None]
    at = f" at step {steps[-1]}" if steps else ""
    at += f" (measured at {', '.join(steps)})" if len(steps) > 1 else ""
    return f"{report.model}{at}; phases on {report.text}"


def _parameter_columns(histories: list[list[Any]]) -> dict[str, list[str]]:
    """Columns by name, a cell a sine, of one parameter's steps."""
    last = [steps[-1] for steps in histories]
    columns = {"mean": [_number(h.mean) for h in last], "std": [_number(h.std, 2) for h in last]}
    if len(histories[0]) > 1:
        moves = [(steps[-1].mean, steps[0].mean) for steps in histories]
        columns["moved"] = [f"{a - b:+#.2g}" if None not in (a, b) else "-" for a, b in moves]
    if any(h.at_bound for h in last):
        columns["bound"] = [_share(h.at_bound) for h in last]
    return columns


def _phase_cells(found: Any) -> list[str]:
    quantiles = [_number(found.quantiles.get(q)) for q in ("50", "99")]
    shares = [_share(found.beyond_half_pi), _share(found.beyond_pi)]
    return [*quantiles, *shares, _number(found.mean_damping_factor)]


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:#.{digits}g}"


def _share(value: float) -> str:
    return f"{100 * value:.1f}%"


def _laid_out(groups: list[tuple[str, int]], lines: list[list[str]]) -> str:
    """Lines of cells in columns, the names of groups of columns above them."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    above, first = [], 0
    for name, n in groups:
        above.append(name.ljust(sum(widths[first : first + n]) + len(_GAP) * (n - 1)))
        first += n
    rows = [
        _GAP.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    ]
    return "\n".join(row.rstrip() for row in [_GAP.join(above), *rows])
