"""What the source documents claim, each with a rule that says from records whether it holds.

A claim that a variant is best holds where it is better than each of the others, by the paired
t-test over at least three seeds at 5 %, and fails where one of the others is better, at 5 % shared
by all of these tests. A claim about speed is judged by ratios of variants that took turns. Whatever
neither decides is undecided.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import math
from pathlib import Path
import statistics
from typing import Any

from psann_jax.evals.comparison import paired_p

SIGNIFICANT, SEEDS = 0.05, 3
HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "fails", "undecided", "not run"
SINES = ("A-f-d", "A-f", "A-d", "f-d", "A", "f", "d", "fixed")
SINE_BASES = ("respsann", "sgrpsann", "waveresnet", "geosparse")
COST, EQUAL = 0.01, 0.05  # of a step's time

# Below experiments/.
SINE, BASES, BASES_IN_TIME = "sine/results", "bases/results", "bases/equal_time"
SPEEDS = "reports/performance/cpu/"

Record = dict[str, Any]
Values = Mapping[str, Mapping[int, float]]  # variant -> seed -> value


class Records:
    """The committed records below a repository's root; each is None where there is none."""

    def __init__(self, root: Path):
        self.root = root

    def read(self, path: str) -> Record | None:
        file = self.root / path
        return json.loads(file.read_text()) if file.exists() else None

    def newest(self, pattern: str) -> str:
        """The file of the latest date, of those that a pattern names; the pattern of none."""
        paths = [str(path.relative_to(self.root)) for path in self.root.glob(pattern)]
        dated = sorted(((self.read(path) or {}).get("date", ""), path) for path in paths)
        return dated[-1][1] if dated else pattern

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
    """What became of a claim, with the figures that say so and the record they are from."""

    verdict: str
    figures: str = ""
    record: str = ""


Rule = Callable[[Records], Verdict]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence, who makes it, and the rule that judges it."""

    said: str
    source: str
    rule: Rule


def is_best(values: Values, one: str, others: Sequence[str], picked_from: int = 1) -> Verdict:
    """Whether a variant is better than each of the others: lower, and no chance of the seeds.

    Args:
      picked_from: of how many variants `one` is the one with the best mean: so often it was tested.
    """
    if any(not values.get(name) for name in (one, *others)):
        return Verdict(NOT_RUN)
    sound = {name: own for name, own in values.items() if all(map(math.isfinite, own.values()))}
    diverged = [name for name in (one, *others) if name not in sound]
    rivals = [name for name in others if name in sound]
    if one in diverged or not rivals:
        return Verdict(UNDECIDED, f"diverged: {', '.join(diverged)}")
    seeds = min(len(sound[one].keys() & sound[name].keys()) for name in rivals)
    tests = {name: _against(sound[one], sound[name]) for name in rivals}
    first = min(rivals, key=lambda name: statistics.fmean(sound[name].values()))
    difference, p = tests[first]
    test = f"p {p:.2g}, {seeds} seeds" if seeds > 1 else f"{seeds} seed"
    figures = (
        f"bits per byte: {one} {_mean(sound[one])}, best of the others {first} "
        f"{_mean(sound[first])} ({difference:+.4f}, {test})"
        + "".join(f"; {name} diverged" for name in diverged)
    )
    if seeds < SEEDS:
        return Verdict(UNDECIDED, figures)
    if any(d > 0 and p < SIGNIFICANT / len(rivals) for d, p in tests.values()):
        return Verdict(FAILS, figures)
    if all(d < 0 and p < SIGNIFICANT / picked_from for d, p in tests.values()):
        return Verdict(HOLDS, figures)
    return Verdict(UNDECIDED, figures)


def _against(one: Mapping[int, float], other: Mapping[int, float]) -> tuple[float, float]:
    """Mean of one - other over their common seeds, and its p-value; 1 where there is none."""
    pairs = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
    p = paired_p(pairs)
    return statistics.fmean(pairs) if pairs else math.nan, 1.0 if math.isnan(p) else p


def _mean(values: Mapping[int, float]) -> str:
    return f"{statistics.fmean(values.values()):.4f}"


def best_sine(one: str, *others: str) -> Rule:
    """The rule that one variant of the sine ablation is better than others."""
    return lambda records: _recorded(is_best(records.values(SINE), one, others), SINE)


def sine_beats_modern(experiment: str) -> Rule:
    """The rule that the best sine base, by its mean, is better than the modern transformer."""
    return lambda records: _recorded(_best_sine_base(records.values(experiment)), experiment)


def _best_sine_base(values: Values) -> Verdict:
    found = [n for n in SINE_BASES if values.get(n) and all(map(math.isfinite, values[n].values()))]
    if not found:
        return Verdict(NOT_RUN)
    best = min(found, key=lambda name: statistics.fmean(values[name].values()))
    return is_best(values, best, ("modern",), picked_from=len(found))


def on_books(experiment: str) -> Rule:
    """The rule that WaveResNet is better than the modern transformer in a sweep of these two."""
    return lambda records: _recorded(
        is_best(records.values(experiment), "waveresnet", ("modern",)), experiment
    )


def _recorded(verdict: Verdict, experiment: str) -> Verdict:
    return dataclasses.replace(verdict, record=f"experiments/{experiment}/leaderboard.md")


def learning_is_cheap(records: Records) -> Verdict:
    names = {"learned sine / fixed sine": (0.0, 1 + COST)}
    return _within(records, records.newest(SPEEDS + "activations*.json"), names)


def bases_are_as_fast(records: Records) -> Verdict:
    bases = ("waveresnet", "sgrpsann", "geosparse")
    return _within(
        records,
        SPEEDS + "B1.json",
        {f"{base} / respsann": (1 - EQUAL, 1 + EQUAL) for base in bases},
    )


def _within(records: Records, path: str, bounds: Mapping[str, tuple[float, float]]) -> Verdict:
    """Whether ratios of times, each told in three ways, are within bounds: all, or one in none."""
    if (record := records.read(path)) is None:
        return Verdict(NOT_RUN)
    inside = []
    for ratio, (low, high) in bounds.items():
        inside.append([low <= way <= high for way in record[f"ratio {ratio}"].values()])
    sizes = "; ".join(
        f"{size['d_model']}/{size['n_layers']}" for size in record["config"]["sizes"].values()
    )
    said = ", ".join(f"{ratio} {record[f'ratio {ratio}']['of_medians']:.3f}" for ratio in bounds)
    around = [sizes, record["config"]["dtype"], record.get("processor"), record.get("date")]
    figures = f"time of a step over time, {', '.join(part for part in around if part)}: {said}"
    if not all(map(any, inside)):
        return Verdict(FAILS, figures, path)
    return Verdict(HOLDS if all(map(all, inside)) else UNDECIDED, figures, path)


def perplexity_of_books(records: Records) -> Verdict:
    folder = "reports/tiny_corpus/waveresnet-0"
    found, config = (records.read(f"{folder}/{n}.json") for n in ("metrics", "config_used"))
    if found is None or config is None:
        return Verdict(NOT_RUN)
    perplexity, epochs = found["perplexity"], config["train"]["epochs"]
    if perplexity is None or config["train"]["steps"] is not None or epochs != 2:
        return Verdict(UNDECIDED, f"{epochs} epochs, perplexity {perplexity}", folder)
    bits = found["bits_per_byte"]
    figures = (
        f"perplexity {perplexity:.2f} a token at a vocabulary of {found['vocab_size']:,}, "
        f"{2**bits:.2f} a byte; {bits:.4f} bits per byte after {found['tokens']:,} tokens"
    )
    return Verdict(HOLDS if perplexity <= 8 else FAILS, figures, f"{folder}/metrics.json")


CLAIMS = (
    Claim(
        "A sine with amplitude, frequency and damping learned is the best of the eight subsets.",
        "sine ablation",
        best_sine("A-f-d", *SINES[1:]),
    ),
    Claim(
        "Of two learned parameters, frequency and damping are best.",
        "same",
        best_sine("f-d", "A-f", "A-d"),
    ),
    Claim("Learning all three beats a fixed sine.", "same", best_sine("A-f-d", "fixed")),
    Claim(
        "Learning the parameters costs less than 1 % of the speed.",
        "same",
        learning_is_cheap,
    ),
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
    Claim(
        "A learned sine beats a GELU in the same network.",
        "the idea",
        best_sine("A-f-d", "gelu"),
    ),
    Claim(
        "The best sine base beats a transformer with SwiGLU and RMSNorm of equal size.",
        "the idea",
        sine_beats_modern(BASES),
    ),
    Claim("The same in the same time.", "the idea", sine_beats_modern(BASES_IN_TIME)),
    Claim(
        "The same at 7.6 M parameters, after a pass over 52 MB, in the same tokens.",
        "the idea",
        on_books("tiny_corpus/one_pass"),
    ),
    Claim("The same after two passes.", "the idea", on_books("tiny_corpus/results")),
)


def table(records: Records) -> str:
    """The claims as a Markdown table."""
    lines = ["| claim | from | verdict | figures |", "|---|---|---|---|"]
    for claim in CLAIMS:
        found = claim.rule(records)
        figures = (
            f"{found.figures} ([record](../{found.record}))" if found.record else found.figures
        )
        lines.append(f"| {claim.said} | {claim.source} | **{found.verdict}** | {figures} |")
    return "\n".join(lines)
