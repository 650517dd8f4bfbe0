"""Whether a difference between variants is one: means over seeds, intervals, a paired test."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import statistics

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Compared:
    """One variant over its seeds, beside the baseline over the same seeds.

    Attributes:
      mean, half_width: of its values, the interval of Student's t at CONFIDENCE; nan with one seed.
      difference, p: mean of the paired differences to the baseline, and the two-sided p-value of
        the paired t-test; nan without two common seeds, or where both are the same runs.

    Where a value is not finite, what is made of it is nan.
    """

    variant: str
    seeds: int
    mean: float
    half_width: float
    difference: float
    p: float


def compare(values: Mapping[str, Mapping[int, float]], baseline: str) -> list[Compared]:
    """Each variant's values by seed -> its row, the lowest mean first, those without one last."""
    rows = [_row(name, of, values.get(baseline, {})) for name, of in values.items() if of]
    return sorted(rows, key=lambda row: (math.isnan(row.mean), row.mean))


def _row(name: str, own: Mapping[int, float], base: Mapping[int, float]) -> Compared:
    mean, half = mean_interval(list(own.values()))
    pairs = [own[seed] - base[seed] for seed in own.keys() & base.keys()]
    difference = statistics.fmean(pairs) if pairs and _finite(pairs) else math.nan
    return Compared(name, len(own), mean, half, difference, paired_p(pairs))


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its interval."""
    if not _finite(values):
        return math.nan, math.nan
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan
    from scipy.stats import t

    error = statistics.stdev(values) / math.sqrt(len(values))
    return mean, float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error


def paired_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of the mean of paired differences being zero."""
    if len(differences) < 2 or not any(differences) or not _finite(differences):
        return math.nan
    from scipy.stats import ttest_1samp

    spread = statistics.stdev(differences)
    return float(ttest_1samp(differences, 0.0).pvalue) if spread else 0.0


def _finite(values: Sequence[float]) -> bool:
    return all(map(math.isfinite, values))
