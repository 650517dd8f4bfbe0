"""Scores of needles by length and depth, held against chance and against two levels."""

from collections.abc import Iterator, Sequence
import dataclasses
import math

import numpy as np

ACCEPTANCE = {1024: 0.8, 2048: 0.8, 4096: 0.8, 8192: 0.6, 16384: 0.4}  # to be exceeded
PROMOTION = {16384: 0.8}
ABOVE_CHANCE = (32768,)  # lengths at which acceptance asks for no more than that
PASS, FAIL, NOT_MEASURED = "pass", "fail", "not measured"
_Z = 1.96  # 95 %


@dataclasses.dataclass(frozen=True)
class Cell:
    """The share of answers that are right as a whole, with its Wilson interval of 95 %."""

    length: int  # tokens of the prompt
    depth: float  # percent of the filler that comes before the needle
    trials: int
    correct: int
    score: float
    low: float
    high: float
    token_accuracy: float  # of the single tokens of the answers


@dataclasses.dataclass(frozen=True)
class Condition:
    """One line of a level: the score over all depths of a length has to exceed `above`."""

    length: int
    above: float | None  # None: chance, by the lower end of the interval
    score: float | None  # None: this length was not measured
    verdict: str


@dataclasses.dataclass(frozen=True)
class Level:
    """Passed where every condition is; failed where one is."""

    verdict: str
    conditions: list[Condition]


@dataclasses.dataclass(frozen=True)
class NeedleReport:
    """`dataclasses.asdict` of it is JSON."""

    model: str
    filler: str
    digits: int
    seed: int
    chance: float
    trained_length: int  # tokens of a training row
    cells: list[Cell]
    acceptance: Level
    promotion: Level

    def at(self, length: int, depth: float) -> Cell:
        return next(c for c in self.cells if (c.length, c.depth) == (length, depth))

    @property
    def lengths(self) -> list[int]:
        return list(dict.fromkeys(c.length for c in self.cells))

    @property
    def depths(self) -> list[float]:
        return list(dict.fromkeys(c.depth for c in self.cells))


def cell(length: int, depth: float, answers: Sequence[np.ndarray]) -> Cell:
    """The cell of what `said_right` returned for it."""
    correct, trials = sum(int(a.all()) for a in answers), len(answers)
    accuracy = float(np.concatenate(answers).mean())
    return Cell(
        length, depth, trials, correct, correct / trials, *wilson(correct, trials), accuracy
    )


def acceptance(cells: Sequence[Cell], chance: float) -> Level:
    """Over 80 % up to 4k, over 60 % at 8k, over 40 % at 16k, more than chance at 32k."""
    conditions = [_condition(cells, length, above, chance) for length, above in ACCEPTANCE.items()]
    return _level([*conditions, *(_condition(cells, n, None, chance) for n in ABOVE_CHANCE)])


def promotion(cells: Sequence[Cell], chance: float) -> Level:
    """Over 80 % at 16k."""
    return _level([_condition(cells, n, above, chance) for n, above in PROMOTION.items()])


def wilson(correct: int, trials: int) -> tuple[float, float]:
    """The interval of 95 % around a share. Source: E. B. Wilson, JASA 22 (1927) 209-212."""
    share, z2 = correct / trials, _Z**2 / trials
    middle = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * (share * (1 - share) + z2 / 4)) / (1 + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


def needle_table(report: NeedleReport) -> str:
    """A line a depth, a column a length, and below them mean, levels and chance."""
    return "\n".join(_lines(report))


def _lines(report: NeedleReport) -> Iterator[str]:
    trials = report.cells[0].trials
    yield f"{report.model}: {trials} trials a cell in {report.filler}"
    yield f"{'depth':>8}" + "".join(f"{n:>8,}" for n in report.lengths) + "  tokens"
    for depth in report.depths:
        row = [report.at(n, depth) for n in report.lengths]
        yield f"{depth:>7g}%" + "".join(f"{c.score:>8.0%}" for c in row)
    pooled = [pool([c for c in report.cells if c.length == n]) for n in report.lengths]
    yield f"{'all':>8}" + "".join(f"{share:>8.0%}" for share, _, _ in pooled)
    yield f"{'from':>8}" + "".join(f"{low:>8.0%}" for _, low, _ in pooled)
    yield f"{'to':>8}" + "".join(f"{high:>8.0%}" for _, _, high in pooled) + "  (95 %)"
    yield f"chance {report.chance:.2g}; trained on rows of {report.trained_length:,} tokens"
    for name in ("acceptance", "promotion"):
        level = getattr(report, name)
        said = ", ".join(f"{c.length:,} {_wanted(c)} {c.verdict}" for c in level.conditions)
        yield f"{name}: {level.verdict} ({said})"


def _wanted(condition: Condition) -> str:
    return "above chance" if condition.above is None else f"> {condition.above:.0%}"


def pool(cells: Sequence[Cell]) -> tuple[float, float, float]:
    """Share and interval over all trials of the cells."""
    correct, trials = sum(c.correct for c in cells), sum(c.trials for c in cells)
    return correct / trials, *wilson(correct, trials)


def _condition(cells: Sequence[Cell], length: int, above: float | None, chance: float) -> Condition:
    at = [c for c in cells if c.length == length]
    if not at:
        return Condition(length, above, None, NOT_MEASURED)
    score, low, _ = pool(at)
    passes = low > chance if above is None else score > above
    return Condition(length, above, score, PASS if passes else FAIL)


def _level(conditions: list[Condition]) -> Level:
    verdicts = {c.verdict for c in conditions}
    worst = next(v for v in (FAIL, NOT_MEASURED, PASS) if v in verdicts)
    return Level(worst, conditions)
