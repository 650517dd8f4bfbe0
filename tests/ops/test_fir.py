"""The long causal filter: one value in all its forms, and blind across documents."""

from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax.ops import fir as module
from psann_jax.ops.fir import fir


def _expected(x, taps, positions=None, past=None):
    width, length = taps.shape[0], x.shape[1]
    before = np.zeros((x.shape[0], width - 1, x.shape[2])) if past is None else past
    history = np.concatenate([before, x], axis=1, dtype=np.float64)
    y = np.zeros(x.shape)
    for lag in range(width):
        seen = history[:, width - 1 - lag : width - 1 - lag + length]
        if positions is not None:
            seen = np.where(positions[..., None] >= lag, seen, 0)
        y += taps[width - 1 - lag] * seen
    return y


def _data(seed, batch, length, features, width):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, length, features)).astype("f")
    return x, (rng.standard_normal((width, features)) / width**0.5).astype("f")


def _packed(rng, batch, length, most):
    """Positions and segments of rows of documents of 1 to `most` tokens, padding at the end."""
    positions, segments = np.zeros((2, batch, length), np.int32)
    for row in range(batch):
        start, number = 0, 1
        while start < length - 2:
            end = min(length - 2, start + int(rng.integers(1, most + 1)))
            positions[row, start:end] = np.arange(end - start)
            segments[row, start:end] = number
            start, number = end, number + 1
    return positions, segments


@given(
    st.integers(0, 99), st.sampled_from([2, 7, 64, 70]), st.sampled_from([1, 9, 80]), st.booleans()
)
def test_it_is_the_sum_that_its_docstring_says(seed, width, length, with_past):
    x, taps = _data(seed, 2, length, 3, width)
    past = _data(seed + 1, 2, width - 1, 3, width)[0] if with_past else None
    y, history = fir(x, taps, past=past)
    np.testing.assert_allclose(y, _expected(x, taps, past=past), atol=2e-5)
    np.testing.assert_array_equal(history[:, width - 1 :], x)


@pytest.mark.parametrize("most", [300, 40], ids=["long documents", "short documents"])
@pytest.mark.parametrize("width", [5, 65, 130])
def test_packed_documents_do_not_mix_in_value_or_gradient(width, most):
    """At 130 taps the long documents go through the FFT, the short ones do not."""
    length, rng = 330, np.random.default_rng(0)
    x, taps = _data(0, 2, length, 3, width)
    positions, segments = _packed(rng, 2, length, most)
    real = segments > 0
    y, vjp = jax.vjp(
        lambda x, taps: fir(x, taps, positions=jnp.asarray(positions), segments=segments)[0],
        x,
        taps,
    )
    expected = _expected(x, taps, positions)
    np.testing.assert_allclose(
        np.where(real[..., None], y, 0), expected * real[..., None], atol=3e-5
    )
    g = rng.standard_normal(x.shape).astype("f") * real[..., None]

    def plain(x, taps):
        history = jnp.pad(x, ((0, 0), (width - 1, 0), (0, 0)))
        lags = [history[:, width - 1 - j : width - 1 - j + length] for j in range(width)]
        seen = [jnp.where(positions[..., None] >= j, h, 0) for j, h in enumerate(lags)]
        return sum(taps[width - 1 - j] * s for j, s in enumerate(seen))

    wanted = jax.vjp(plain, x, taps)[1](g)
    for ours, theirs in zip(vjp(g), wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6 * np.abs(theirs).max() + 2e-5)


@pytest.mark.parametrize("width", [50, 100, 128])
def test_padding_between_documents_reaches_none(width):
    x, taps = _data(0, 1, 139, 3, width)
    segments = jnp.array([[1] * 60 + [0] * 20 + [2] * 59])
    positions = jnp.array([[*range(60), *[0] * 20, *range(59)]])

    def second(x):
        return fir(x, taps, positions=positions, segments=segments)[0][:, 80:]

    np.testing.assert_allclose(second(x), _expected(x[:, 80:], taps), atol=1e-5)
    moved = jax.grad(lambda x: jnp.sum(second(x) ** 2))(x)
    assert np.abs(moved[:, :80]).max() < 1e-5  # what the transform rounds


def test_direct_and_fourier_forms_agree(monkeypatch):
    x, taps = _data(0, 2, 300, 4, 200)
    by_fft = fir(x, taps)[0]
    monkeypatch.setattr(module, "BY_FFT", 10**9)
    np.testing.assert_allclose(by_fft, fir(x, taps)[0], atol=1e-5)


@pytest.mark.parametrize("width", [64, 65, 70, 128, 129])
def test_gradients_of_taps_are_exact_around_a_group(width):
    x, taps = _data(0, 1, 66, 2, width)
    g = jnp.ones_like(x)
    direct = jax.vjp(lambda t: fir(x, t, past=jnp.zeros((1, width - 1, 2)))[0], taps)[1](g)[0]
    cumulative = np.cumsum(x[0], axis=0, dtype=np.float64)  # dL/dtaps[i] = sum of all x it met
    lags = width - 1 - np.arange(width)
    wanted = [cumulative[-1 - lag] if lag < 66 else np.zeros(2) for lag in lags]
    np.testing.assert_allclose(direct, wanted, atol=1e-4)


def test_bfloat16_sums_in_float32():
    x, taps = _data(0, 1, 40, 4, 32)
    y = fir(x.astype(jnp.bfloat16), taps)[0]
    assert y.dtype == jnp.bfloat16
    rounded = np.asarray(x.astype(jnp.bfloat16), np.float32)
    np.testing.assert_allclose(np.asarray(y, np.float32), _expected(rounded, taps), atol=0.02)
