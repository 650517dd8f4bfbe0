"""RoPE, ALiBi and sinusoids: the original's tables, and what positions must not lose."""

from hypothesis import given
from hypothesis import strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax.ops.alibi import slopes
from psann_jax.ops.attention import alibi_bias
from psann_jax.ops.rope import interleaved_order, rope, sinusoidal

HEADS = range(1, 18)


@pytest.mark.parametrize(("width", "start"), [(8, 0), (8, 11), (64, 0), (64, 11)])
def test_rope_equals_the_original_after_the_permutation(golden, width, start):
    arrays = golden("aux_public").arrays
    q = arrays[f"rope/{width}/{start}/q"].transpose(0, 2, 1, 3)  # [B, T, H, K]
    turned = arrays[f"rope/{width}/{start}/q_rot"].transpose(0, 2, 1, 3)
    order = interleaved_order(1, width)
    positions = start + jnp.arange(q.shape[1])[None]
    # Angles up to 20 radians in float32, and a sum of two products.
    np.testing.assert_allclose(rope(q[..., order], positions), turned[..., order], atol=5e-6)


def test_rope_scores_depend_on_the_distance_only():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.standard_normal((1, 1, 1, 8)), jnp.float32) for _ in range(2))

    def score(i, j):
        return jnp.sum(rope(q, jnp.full((1, 1), i)) * rope(k, jnp.full((1, 1), j)))

    # float32 angles of a hundred radians are good to 1e-5.
    np.testing.assert_allclose(score(105, 100), score(5, 0), atol=1e-4)


@given(st.integers(1, 9), st.integers(1, 9).map(lambda n: 2 * n))
def test_interleaved_order_is_a_permutation_within_heads(n_heads, width):
    order = interleaved_order(n_heads, width)
    np.testing.assert_array_equal(np.sort(order), np.arange(n_heads * width))
    np.testing.assert_array_equal(order // width, np.repeat(np.arange(n_heads), width))


@pytest.mark.parametrize("n_heads", HEADS)
def test_alibi_slopes_equal_the_original_for_any_number_of_heads(golden, n_heads):
    expected = golden("aux_public").arrays[f"alibi_slopes/{n_heads}"]
    # The original raises a rounded float32 ratio to the power of the head.
    np.testing.assert_allclose(np.float32(slopes(n_heads)), expected, rtol=1e-6)


@pytest.mark.parametrize("n_heads", [1, 3, 8, 12, 17])
@pytest.mark.parametrize(("past", "queries"), [(0, 5), (7, 2)])
def test_alibi_bias_equals_the_original(golden, n_heads, past, queries):
    keys = past + queries
    expected = golden("aux_public").arrays[f"alibi_bias/{n_heads}/past{past}_q{queries}_k{keys}"]
    bias = alibi_bias(slopes(n_heads), past + jnp.arange(queries)[None], jnp.arange(keys)[None])
    # As far apart as the slopes of the test above.
    np.testing.assert_allclose(bias[0], expected, rtol=1e-6, atol=0)


def test_alibi_tells_neighbours_apart_at_distances_bfloat16_cannot():
    bias = alibi_bias(slopes(8), jnp.asarray([[4001]]), jnp.asarray([[0, 1]]))[0, :, 0]
    # Exactly one slope between two neighbours; float32 holds 4001 times a power of two.
    np.testing.assert_array_equal(bias[:, 1] - bias[:, 0], np.float32(slopes(8)))
    assert bias.dtype == jnp.float32


@pytest.mark.parametrize("width", [8, 16])
def test_sinusoidal_equals_the_original(golden, width):
    table = golden("aux_public").arrays[f"sinusoidal/{width}"]
    ours = sinusoidal(jnp.arange(len(table))[None], width)[0]
    # Angles up to 32 radians in float32.
    np.testing.assert_allclose(ours, table, atol=5e-6)


def test_sinusoidal_follows_the_positions_it_is_given():
    positions = jnp.asarray([[3, 0, 7]])
    whole = sinusoidal(jnp.arange(8)[None], 6)
    np.testing.assert_array_equal(sinusoidal(positions, 6)[0], whole[0, positions[0]])
