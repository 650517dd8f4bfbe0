"""A claim holds, fails or stays undecided by what the records say, and by nothing else."""

import json
import math

import claims
from claims import FAILS, HOLDS, NOT_RUN, UNDECIDED, Records
import pytest


@pytest.fixture
def records(tmp_path):
    """records(path, content): records with a file of this content."""

    def write(path, content):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
        return Records(tmp_path)

    return write


def _swept(values):
    """A summary of variants: name -> the values of its seeds, in order."""
    runs = [
        {"variant": name, "seed": seed, "value": value}
        for name, own in values.items()
        for seed, value in enumerate(own)
    ]
    return {"runs": runs}


# Three seeds differ by 0.1; what is added to them is what tells variants apart.
def _seeds(mean, spread=0.0):
    return [mean + 0.1, mean - spread, mean + spread]


VERDICTS = {
    "better than all, alike in every seed": ({"b": 2.1, "c": 2.2}, 0.001, HOLDS),
    "worse than one": ({"b": 1.9, "c": 2.2}, 0.001, FAILS),
    "as the seeds differ": ({"b": 2.01, "c": 2.2}, 0.05, UNDECIDED),
    "better than one alone": ({"b": 2.0, "c": 2.2}, 0.0, UNDECIDED),
}


@pytest.mark.parametrize(("others", "spread", "verdict"), VERDICTS.values(), ids=VERDICTS)
def test_a_variant_is_best_where_it_beats_each_of_the_others(others, spread, verdict):
    values = {name: dict(enumerate(_seeds(mean, spread))) for name, mean in others.items()}
    values["a"] = dict(enumerate(_seeds(2.0)))
    assert claims.is_best(values, "a", tuple(others)).verdict == verdict


def test_a_run_that_diverged_or_a_single_seed_decides_nothing():
    alone, three = {0: 1.0}, dict(enumerate(_seeds(2.0)))
    assert claims.is_best({"a": alone, "b": three}, "a", ("b",)).verdict == NOT_RUN
    assert claims.is_best({"a": three, "b": alone}, "a", ("b",)).verdict == NOT_RUN
    diverged = {**three, 2: math.nan}
    assert claims.is_best({"a": diverged, "b": three}, "a", ("b",)).verdict == UNDECIDED


def test_the_best_sine_base_is_compared_with_the_modern_transformer(records):
    values = {"respsann": _seeds(2.1), "waveresnet": _seeds(1.9), "modern": _seeds(2.0)}
    found = claims.sine_beats_modern(
        records("experiments/bases/results/summary.json", _swept(values))
    )
    assert found.verdict == HOLDS and "waveresnet 1.9333" in found.figures


def _ratios(*ways):
    return dict(zip(("of_medians", "of_minima", "median_of_rounds"), ways, strict=True))


COSTS = {
    "dearer in each way": ((1.03, 1.02, 1.02), FAILS),
    "within the noise": ((1.03, 1.005, 1.0), UNDECIDED),
    "cheap in each way": ((1.005, 1.0, 0.99), HOLDS),
}


@pytest.mark.parametrize(("ways", "verdict"), COSTS.values(), ids=COSTS)
def test_a_cost_is_judged_by_variants_that_took_turns(records, ways, verdict):
    record = {"ratio learned sine / fixed sine": _ratios(*ways)}
    path = "reports/performance/cpu/activations.json"
    assert claims.learning_is_cheap(records(path, record)).verdict == verdict


@pytest.mark.parametrize(("perplexity", "verdict"), [(7.9, HOLDS), (8.1, FAILS)])
def test_the_perplexity_is_told_with_its_vocabulary(records, perplexity, verdict):
    found = {"perplexity": perplexity, "bits_per_byte": 2.0, "vocab_size": 356, "tokens": 9}
    judged = claims.perplexity_of_books(
        records("reports/tiny_corpus/waveresnet/metrics.json", found)
    )
    assert judged.verdict == verdict and "vocabulary of 356" in judged.figures


def test_without_records_no_claim_is_judged(tmp_path):
    records = Records(tmp_path)
    assert {claim.rule(records).verdict for claim in claims.CLAIMS} == {NOT_RUN}
    assert claims.table(records).count("**not run**") == len(claims.CLAIMS)
