"""Shifts on a grid equal the gather that they stand for, in value and gradients."""

from hypothesis import given
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from psann_jax.ops.stencil import gathered, neighbours, square, stencil

OFFSETS = [square(1), square(2), ((0, 3), (-1, 0)), ((0, 0),), ((1, 1), (1, 1), (-4, 2))]


@pytest.mark.parametrize("border", ["clamp", "wrap"])
@pytest.mark.parametrize("offsets", OFFSETS, ids=len)
@pytest.mark.parametrize(("shape", "rows"), [((4, 6), 64), ((1, 9), 2), ((5, 5), 2)], ids=str)
def test_shifts_equal_the_gather(shape, offsets, border, rows):
    rng, features = np.random.default_rng(0), shape[0] * shape[1]
    x = rng.standard_normal((2, rows, features)).astype("f")
    weight = rng.standard_normal((len(offsets), features)).astype("f")
    index = neighbours(shape, offsets, border)
    how = {"shape": shape, "offsets": offsets, "border": border}
    y, back = jax.vjp(lambda x, w: stencil(x, w, **how), x, weight)
    wanted, wanted_back = jax.vjp(lambda x, w: gathered(x, w, index), x, weight)
    np.testing.assert_allclose(y, wanted, atol=1e-6, rtol=1e-6)
    g = rng.standard_normal(x.shape).astype("f")
    for ours, theirs in zip(back(g), wanted_back(g), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=1e-5)


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 3))
def test_neighbours_stay_on_the_grid_and_begin_row_by_row(height, width, radius):
    offsets = square(radius)
    for border in ("clamp", "wrap"):
        index = neighbours((height, width), offsets, border)
        assert index.shape == (height * width, (2 * radius + 1) ** 2)
        assert index.min() >= 0
        assert index.max() < height * width
        np.testing.assert_array_equal(index[:, len(offsets) // 2], np.arange(height * width))
