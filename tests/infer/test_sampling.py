"""The filters and draws: exactly k, the token that crosses p, the penalty of the paper."""

from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax.infer.sampling import Sampling, filtered, penalised, sample

FOUR = jnp.log(jnp.asarray([[0.4, 0.3, 0.2, 0.1]]))
_filtered = jax.jit(filtered, static_argnums=(1, 2))


def _kept(logits, top_k=None, top_p=None):
    return np.flatnonzero(np.isfinite(_filtered(jnp.asarray(logits), top_k, top_p)[0])).tolist()


@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k_keeps_exactly_k_of_equal_tokens(k):
    assert _kept(jnp.zeros((1, 4)), top_k=k) == list(range(k))


def test_top_k_keeps_the_most_likely():
    assert _kept([[0.0, 3.0, 1.0, 2.0]], top_k=2) == [1, 3]


def test_top_k_beyond_the_vocabulary_keeps_all():
    assert _kept(FOUR, top_k=9) == [0, 1, 2, 3]


@pytest.mark.parametrize("k", [1, 5, 50])
def test_top_k_without_ties_is_that_of_the_original(golden, k):
    arrays = golden("aux_public").arrays
    logits = jnp.asarray(arrays["sampling/logits"])
    expected = arrays[f"sampling/top_k/{k}"]
    np.testing.assert_array_equal(
        _filtered(logits, k, None), np.where(expected < -1e9, -np.inf, expected)
    )


@pytest.mark.parametrize(
    ("p", "n"), [(0.05, 1), (0.39, 1), (0.41, 2), (0.75, 3), (0.95, 4), (1.0, 4)]
)
def test_top_p_keeps_the_token_that_crosses_p(p, n):
    assert _kept(FOUR, top_p=p) == list(range(n))


def test_top_p_counts_in_the_order_of_likelihood():
    assert _kept(jnp.log(jnp.asarray([[0.1, 0.4, 0.2, 0.3]])), top_p=0.65) == [1, 3]


def test_top_p_of_one_keeps_tokens_that_round_to_nothing():
    assert _kept([[0.0, -200.0, -300.0]], top_k=2, top_p=1.0) == [0, 1]


def test_top_p_applies_to_what_top_k_left():
    """Of the two left the first has 0.4 / 0.7 = 0.57; of all four it has 0.4."""
    assert _kept(FOUR, top_k=2, top_p=0.5) == [0]
    assert _kept(FOUR, top_p=0.5) == [0, 1]


@given(
    st.lists(st.integers(-3, 3), min_size=8, max_size=8),
    st.sampled_from([None, 1, 3, 8]),
    st.sampled_from([None, 0.3, 0.9, 1.0]),
)
def test_filters_keep_the_most_likely_and_never_nothing(values, k, p):
    logits = np.asarray([values], np.float32)
    kept = _kept(logits, k, p)
    assert int(np.argmax(logits)) in kept
    assert len(kept) <= (k or 8)
    left_out = np.delete(logits[0], kept)
    assert not left_out.size or left_out.max() <= logits[0, kept].min()


def test_penalty_divides_positive_and_multiplies_negative_logits():
    logits = jnp.asarray([[2.0, -2.0, 2.0, -2.0]])
    seen = jnp.asarray([[True, True, False, False]])
    np.testing.assert_array_equal(penalised(logits, seen, 2.0), [[1.0, -4.0, 2.0, -2.0]])


def test_penalty_below_one_makes_repeats_likelier():
    assert float(penalised(jnp.ones((1, 1)), jnp.ones((1, 1), bool), 0.5)[0, 0]) == 2.0


def test_greedy_takes_the_most_likely_and_of_equal_ones_the_first():
    logits = jnp.asarray([[0.0, 5.0, 5.0], [7.0, 5.0, 5.0]])
    drawn = sample(logits, Sampling(temperature=0).draw(), jax.random.key(0))
    assert drawn.tolist() == [1, 0]


def test_greedy_regards_the_penalty():
    sampling = Sampling(temperature=0, repetition_penalty=2.0)
    seen = jnp.asarray([[True, False]])
    assert sample(jnp.asarray([[3.0, 2.0]]), sampling.draw(), jax.random.key(0), seen).tolist() == [
        1
    ]


_draw = jax.jit(sample, static_argnums=1)


def _draws(sampling, n=4000, logits=FOUR):
    rows = jnp.broadcast_to(logits, (n, logits.shape[1]))
    return np.asarray(_draw(rows, sampling, jax.random.key(sampling.seed)))


def test_draws_follow_the_probabilities():
    counts = np.bincount(_draws(Sampling(top_p=None)), minlength=4) / 4000
    # 4000 draws: five standard deviations of a share are at most 0.04.
    np.testing.assert_allclose(counts, [0.4, 0.3, 0.2, 0.1], atol=0.04)


def test_temperature_sharpens():
    counts = np.bincount(_draws(Sampling(top_p=None, temperature=0.5)), minlength=4) / 4000
    np.testing.assert_allclose(counts, np.square([4, 3, 2, 1]) / 30, atol=0.04)


def test_a_temperature_next_to_zero_takes_the_most_likely():
    logits = jnp.asarray([[-jnp.inf, -2.0, -1.0, -3.0]])
    assert sample(logits, Sampling(temperature=1e-39).draw(), jax.random.key(0)).tolist() == [2]


def test_any_number_of_tokens_may_be_kept():
    most, all_of_them = (
        sample(FOUR, Sampling(top_k=k).draw(), jax.random.key(0)) for k in (10**309, None)
    )
    assert most.tolist() == all_of_them.tolist()


def test_no_draw_leaves_the_filter():
    assert set(_draws(Sampling(top_k=2, top_p=None))) == {0, 1}


def test_rows_draw_by_themselves():
    rows = jnp.broadcast_to(FOUR, (64, 4))
    few = _draw(rows[:8], Sampling(), jax.random.key(0))
    np.testing.assert_array_equal(_draw(rows, Sampling(), jax.random.key(0))[:8], few)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"temperature": "0.8"}, "temperature='0.8' must be a number"),
        ({"seed": 2**1100}, r"must be a whole number in \[0"),
        ({"temperature": 10**400}, "temperature is a number of over 308 digits"),
        ({"seed": 1.5}, r"seed=1\.5 must be a whole number"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"top_p": 0.0}, r"top_p=0.0 must be in \(0, 1\]"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0 must be positive"),
    ],
)
def test_a_value_out_of_range_is_named(fields, said):
    with pytest.raises(ValueError, match=said):
        Sampling(**fields)
