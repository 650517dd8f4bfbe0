"""What the source documents claim, each with a rule that says from records whether it holds.

A claim about bits per byte holds or fails by the paired t-test over seeds at 5 %; one about speed
by a ratio of variants that took turns. Whatever neither decides is undecided.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import math
from pathlib import Path
import statistics
from typing import Any

from psann_jax.evals.comparison import paired_p

SIGNIFICANT = 0.05
HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "fails", "undecided", "not run"
PAIRS = ("A-f", "A-d", "f-d")
SINES = ("A-f-d", *PAIRS, "A", "f", "d", "fixed")
SINE_BASES = ("respsann", "sgrpsann", "waveresnet", "geosparse")
COST, EQUAL = 0.01, 0.05  # of a step's time

Record = dict[str, Any]
Values = Mapping[str, Mapping[int, float]]  # variant -> seed -> value


class Records:
    """The committed records below a repository's root; each is None where there is none."""

    def __init__(self, root: Path):
        self.root = root

    def read(self, path: str) -> Record | None:
        file = self.root / path
        return json.loads(file.read_text()) if file.exists() else None

    def values(self, experiment: str) -> Values:
        """The last bits per byte of each run of a sweep; none where it was not run."""
        found = self.read(f"experiments/{experiment}/summary.json")
        values: dict[str, dict[int, float]] = {}
        for run in found["runs"] if found else ():
            value = math.nan if run["value"] is None else run["value"]
            values.setdefault(run["variant"], {})[run["seed"]] = value
        return values


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a claim, with the figures that say so."""

    verdict: str
    figures: str = ""


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence, who makes it, and the rule that judges it."""

    said: str
    source: str
    rule: Callable[[Records], Verdict]


def is_best(values: Values, one: str, others: Sequence[str]) -> Verdict:
    """Whether a variant is better than each of the others: lower, and no chance of the seeds."""
    if any(len(values.get(name, {})) < 2 for name in (one, *others)):
        return Verdict(NOT_RUN)
    tests = {name: _against(values[one], values[name]) for name in others}
    ranked = sorted(others, key=lambda name: statistics.fmean(values[name].values()))
    difference, p = tests[ranked[0]]
    figures = (
        f"{one} {_mean(values[one])}, best of the others {ranked[0]} {_mean(values[ranked[0]])} "
        f"bits per byte ({difference:+.4f}, p {p:.2g})"
    )
    better = [name for name, (d, p) in tests.items() if d > 0 and p < SIGNIFICANT]
    if better:
        worst = max(better, key=lambda name: tests[name][0])
        by, p = tests[worst]
        return Verdict(FAILS, f"{figures}; {worst} is better by {by:.4f}, p {p:.2g}")
    if all(d < 0 and p < SIGNIFICANT for d, p in tests.values()):
        return Verdict(HOLDS, figures)
    return Verdict(UNDECIDED, figures)


def _against(one: Mapping[int, float], other: Mapping[int, float]) -> tuple[float, float]:
    """Mean of one - other over their common seeds, and its p-value; 1 where there is none."""
    pairs = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
    p = paired_p(pairs)
    return statistics.fmean(pairs), 1.0 if math.isnan(p) else p


def _mean(values: Mapping[int, float]) -> str:
    return f"{statistics.fmean(values.values()):.4f}"


def all_learned(records: Records) -> Verdict:
    return is_best(records.values("sine/results"), "A-f-d", SINES[1:])


def frequency_and_damping(records: Records) -> Verdict:
    return is_best(records.values("sine/results"), "f-d", ("A-f", "A-d"))


def learning_helps(records: Records) -> Verdict:
    return is_best(records.values("sine/results"), "A-f-d", ("fixed",))


def sine_beats_gelu(records: Records) -> Verdict:
    return is_best(records.values("sine/results"), "A-f-d", ("gelu",))


def sine_beats_modern(records: Records) -> Verdict:
    """The best of the sine bases, by its mean, beside the modern transformer."""
    values = records.values("bases/results")
    found = [name for name in SINE_BASES if values.get(name)]
    if not found:
        return Verdict(NOT_RUN)
    best = min(found, key=lambda name: statistics.fmean(values[name].values()))
    return is_best(values, best, ("modern",))


def learning_is_cheap(records: Records) -> Verdict:
    record = records.read("reports/performance/cpu/activations.json")
    return _slower_by(record, {"learned sine / fixed sine": COST})


def bases_are_as_fast(records: Records) -> Verdict:
    record = records.read("reports/performance/cpu/B1.json")
    names = [f"{base} / respsann" for base in ("waveresnet", "sgrpsann", "geosparse")]
    return _slower_by(record, dict.fromkeys(names, EQUAL))


def _slower_by(record: Record | None, allowed: Mapping[str, float]) -> Verdict:
    """Whether ratios of times, each told in three ways, are within a share of 1."""
    if record is None:
        return Verdict(NOT_RUN)
    ways = {name: list(record[f"ratio {name}"].values()) for name in allowed}
    said = ", ".join(f"{name} {record[f'ratio {name}']['of_medians']:.3f}" for name in allowed)
    figures = f"time over time, float32: {said}"
    if any(min(found) > 1 + allowed[name] for name, found in ways.items()):
        return Verdict(FAILS, figures)
    if all(max(found) <= 1 + allowed[name] for name, found in ways.items()):
        return Verdict(HOLDS, figures)
    return Verdict(UNDECIDED, figures)


def perplexity_of_books(records: Records) -> Verdict:
    found = records.read("reports/tiny_corpus/waveresnet/metrics.json")
    if found is None:
        return Verdict(NOT_RUN)
    perplexity, bits = found["perplexity"], found["bits_per_byte"]
    figures = (
        f"perplexity {perplexity:.2f} a token at a vocabulary of {found['vocab_size']:,}, "
        f"{bits:.4f} bits per byte, {2**bits:.2f} a byte; {found['tokens']:,} tokens"
    )
    return Verdict(HOLDS if perplexity <= 8 else FAILS, figures)


CLAIMS = (
    Claim(
        "A sine with amplitude, frequency and damping learned is the best of the eight subsets.",
        "sine ablation",
        all_learned,
    ),
    Claim(
        "Of two learned parameters, frequency and damping are best.", "same", frequency_and_damping
    ),
    Claim("Learning all three beats a fixed sine.", "same", learning_helps),
    Claim("Learning the parameters costs less than 1 % of the speed.", "same", learning_is_cheap),
    Claim(
        "The bases are equal in speed (here: within 5 % of ResPSANN, a train step).",
        "throughput table",
        bases_are_as_fast,
    ),
    Claim(
        "Perplexity is at most 8 after two epochs of a text of 50 MB.",
        "BMRK-01",
        perplexity_of_books,
    ),
    Claim("A learned sine beats a GELU in the same network.", "the idea", sine_beats_gelu),
    Claim(
        "The best sine base beats a transformer with SwiGLU and RMSNorm of equal size.",
        "the idea",
        sine_beats_modern,
    ),
)


def table(records: Records) -> str:
    """The claims as a Markdown table."""
    lines = ["| claim | from | verdict | figures |", "|---|---|---|---|"]
    for claim in CLAIMS:
        found = claim.rule(records)
        lines.append(f"| {claim.said} | {claim.source} | **{found.verdict}** | {found.figures} |")
    return "\n".join(lines)
