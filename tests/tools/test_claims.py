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


def test_what_diverged_or_has_two_seeds_decides_nothing():
    two, three = {0: 1.0, 1: 1.1}, dict(enumerate(_seeds(2.0)))
    assert claims.is_best({"a": two, "b": three}, "a", ("b",)).verdict == UNDECIDED
    assert claims.is_best({"a": three, "b": two}, "a", ("b",)).verdict == UNDECIDED
    assert claims.is_best({"a": three}, "a", ("b",)).verdict == NOT_RUN
    diverged = {**three, 2: math.nan}
    found = claims.is_best({"a": diverged, "b": three}, "a", ("b",))
    assert found.verdict == UNDECIDED and found.figures == "diverged: a"
    better = dict(enumerate(_seeds(1.9, 0.001)))
    found = claims.is_best({"a": better, "b": diverged, "c": three}, "a", ("b", "c"))
    assert found.verdict == HOLDS and "best of the others c" in found.figures
    assert found.figures.endswith("; b diverged")


def test_among_many_rivals_one_that_looks_better_by_chance_does_not_refute():
    """p is 0.02: enough against a single rival, too much against four."""
    one = dict(enumerate(_seeds(2.0)))
    values = {"a": one, "b": {seed: one[seed] - 0.03 - 0.01 * seed for seed in one}}
    values |= {name: {seed: v + 0.5 for seed, v in one.items()} for name in "cde"}
    assert claims.is_best(values, "a", ("b",)).verdict == FAILS
    assert claims.is_best(values, "a", tuple("bcde")).verdict == UNDECIDED
    assert claims.is_best(values, "b", ("a",)).verdict == HOLDS
    assert claims.is_best(values, "b", ("a",), picked_from=4).verdict == UNDECIDED


def test_the_best_sine_base_is_compared_with_the_modern_transformer(records):
    values = {"respsann": _seeds(2.1), "waveresnet": _seeds(1.9), "modern": _seeds(2.0)}
    values |= {"sgrpsann": [1.0, None, 1.0]}  # has diverged
    beaten = claims.sine_beats_modern("bases/equal_time")
    found = beaten(records("experiments/bases/equal_time/summary.json", _swept(values)))
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
    sizes = {"d256": {"d_model": 256, "n_layers": 4}}
    record = {"config": {"dtype": "float32", "sizes": sizes}}
    record["ratio learned sine / fixed sine"] = _ratios(*ways)
    path = "reports/performance/cpu/activations.json"
    assert claims.learning_is_cheap(records(path, record)).verdict == verdict


def test_a_cost_is_that_of_the_newest_record(records):
    for name, date, way in (
        ("activations", "2026-11-22", 1.05),
        ("activations-b", "2026-11-28", 1),
    ):
        record = {"config": {"dtype": "float32", "sizes": {}}, "date": date, "processor": "a CPU"}
        record["ratio learned sine / fixed sine"] = _ratios(way, way, way)
        found = records(f"reports/performance/cpu/{name}.json", record)
    judged = claims.learning_is_cheap(found)
    assert judged.verdict == HOLDS and "float32, a CPU, 2026-11-28" in judged.figures
    assert judged.record.endswith("activations-b.json")


@pytest.mark.parametrize(("ways", "verdict"), [((0.8,) * 3, FAILS), ((1.02,) * 3, HOLDS)])
def test_equal_in_speed_is_neither_slower_nor_faster(records, ways, verdict):
    record = {"config": {"dtype": "float32", "sizes": {}}}
    record |= {f"ratio {n} / respsann": _ratios(*ways) for n in claims.SINE_BASES[1:]}
    path = "reports/performance/cpu/B1.json"
    assert claims.bases_are_as_fast(records(path, record)).verdict == verdict


PERPLEXITIES = {
    "low": (7.9, 2, HOLDS),
    "high": (8.1, 2, FAILS),
    "one epoch": (7.9, 1, UNDECIDED),
    "not validated": (None, 2, UNDECIDED),
}


@pytest.mark.parametrize(
    ("perplexity", "epochs", "verdict"), PERPLEXITIES.values(), ids=PERPLEXITIES
)
def test_the_perplexity_is_that_of_two_epochs(records, perplexity, epochs, verdict):
    config = {"train": {"epochs": epochs, "steps": None}}
    records("reports/tiny_corpus/waveresnet-0/config_used.json", config)
    found = {"perplexity": perplexity, "bits_per_byte": 2.0, "vocab_size": 356, "tokens": 9}
    judged = claims.perplexity_of_books(
        records("reports/tiny_corpus/waveresnet-0/metrics.json", found)
    )
    assert judged.verdict == verdict
    assert ("vocabulary of 356" in judged.figures) == (verdict != UNDECIDED)


def test_without_records_no_claim_is_judged(tmp_path):
    records = Records(tmp_path)
    assert {claim.rule(records).verdict for claim in claims.CLAIMS} == {NOT_RUN}
    assert claims.table(records).count("**not run**") == len(claims.CLAIMS)
