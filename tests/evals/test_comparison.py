"""A difference between variants: means over seeds, Student's intervals, a test of paired seeds."""

import math

import pytest

from psann_jax.evals.comparison import compare, mean_interval, paired_p


def test_intervals_are_those_of_student():
    mean, half = mean_interval([1.0, 2.0, 3.0])
    assert (mean, half) == (2.0, pytest.approx(4.302653 / math.sqrt(3), rel=1e-6))
    assert math.isnan(mean_interval([1.0])[1])


def test_differences_are_paired_by_seed():
    values = {"base": {0: 1.0, 1: 5.0, 2: 9.0}, "same": {0: 1.0, 1: 5.0, 2: 9.0}}
    values |= {"lower": {0: 0.9, 1: 4.8, 2: 8.9}, "one": {0: 0.5}}
    rows = {row.variant: row for row in compare(values, "base")}
    assert rows["lower"].difference == pytest.approx(-0.4 / 3)
    assert rows["lower"].p == pytest.approx(
        0.0572, abs=1e-3
    )  # though the spread is thirty times that
    assert math.isnan(rows["same"].p) and rows["one"].difference == -0.5
    assert math.isnan(paired_p([0.1]))
    assert [row.variant for row in compare(values, "base")][0] == "one"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_makes_interval_and_p_nan(bad):
    assert all(map(math.isnan, mean_interval([1.0, bad, 2.0])))
    assert math.isnan(paired_p([0.1, bad, -bad]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_variant_with_a_diverged_seed_ranks_last(bad):
    rows = compare({"wild": {0: 0.1, 1: bad}, "base": {0: 3.0, 1: bad}, "tame": {0: 9.0}}, "base")
    assert [row.variant for row in rows] == ["tame", "wild", "base"]
    assert math.isnan(rows[1].difference) and rows[0].difference == 6.0
