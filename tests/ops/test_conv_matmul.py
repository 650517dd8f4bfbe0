"""The causal convolution and the matrix product with a float32 gradient."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax.ops.conv import causal_conv, span
from psann_jax.ops.matmul import matmul, rows_dot

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 9, 3)).astype(np.float32)


def _by_hand(x, taps, dilation):
    y = np.zeros_like(x)
    for t in range(x.shape[1]):
        for i in range(len(taps)):
            source = t - (len(taps) - 1 - i) * dilation
            if source >= 0:
                y[:, t] += taps[i] * x[:, source]
    return y


@pytest.mark.parametrize(("width", "dilation"), [(1, 1), (3, 1), (3, 2), (4, 5)])
def test_convolution_equals_its_sum(width, dilation):
    taps = RNG.standard_normal((width, 3)).astype(np.float32)
    y, history = causal_conv(jnp.asarray(X), jnp.asarray(taps), dilation=dilation)
    np.testing.assert_allclose(y, _by_hand(X, taps, dilation), atol=1e-6)  # four roundings
    assert history.shape[1] == X.shape[1] + span(width, dilation)


@pytest.mark.parametrize("cut", [1, 4, 8])
def test_convolution_in_two_calls_equals_one(cut):
    taps = jnp.asarray(RNG.standard_normal((3, 3)), jnp.float32)
    whole, _ = causal_conv(jnp.asarray(X), taps, dilation=2)
    first, history = causal_conv(jnp.asarray(X[:, :cut]), taps, dilation=2)
    past = history[:, -span(3, 2) :]
    second, _ = causal_conv(jnp.asarray(X[:, cut:]), taps, dilation=2, past=past)
    np.testing.assert_array_equal(jnp.concatenate([first, second], 1), whole)


def test_convolution_starts_afresh_at_position_zero():
    taps = jnp.asarray(RNG.standard_normal((3, 3)), jnp.float32)
    positions = jnp.asarray([[0, 1, 2, 3, 0, 1, 2, 3, 4]] * 2)
    packed, _ = causal_conv(jnp.asarray(X), taps, positions=positions)
    alone, _ = causal_conv(jnp.asarray(X[:, 4:]), taps)
    np.testing.assert_array_equal(packed[:, 4:], alone)


def test_no_gradient_passes_from_one_document_into_the_next():
    taps = jnp.asarray(RNG.standard_normal((3, 3)), jnp.float32)
    positions = jnp.asarray([[0, 1, 2, 3, 0, 1, 2, 3, 4]] * 2)

    def second(x):
        return jnp.sum(causal_conv(x, taps, positions=positions)[0][:, 4:] ** 2)

    gradient = jax.grad(second)(jnp.asarray(X))
    np.testing.assert_array_equal(gradient[:, :4], 0)
    assert np.abs(gradient[:, 4:]).max() > 0.1


def _bfloat16():
    x = jnp.asarray(RNG.standard_normal((4, 64, 8)), jnp.bfloat16)
    w = jnp.asarray(RNG.standard_normal((8, 5)), jnp.float32)
    g = jnp.asarray(RNG.standard_normal((4, 64, 5)), jnp.bfloat16)
    return x, w, g


def test_matmul_returns_the_dtype_of_x():
    x, w, _ = _bfloat16()
    assert matmul(x, w).dtype == jnp.bfloat16


def test_gradient_of_w_is_a_float32_sum_under_bfloat16_x():
    x, w, g = _bfloat16()
    dw = jax.vjp(matmul, x, w)[1](g)[1]
    exact = np.einsum("btd,bto->do", np.asarray(x, np.float64), np.asarray(g, np.float64))
    assert dw.dtype == jnp.float32
    # Products of bfloat16 are exact in float32; only their 256-term sum rounds.
    np.testing.assert_allclose(dw, exact, atol=1e-4)
    assert np.abs(dw - dw.astype(jnp.bfloat16).astype(jnp.float32)).max() > 0


def test_matmul_of_bfloat16_may_keep_its_sums():
    x, w, g = _bfloat16()
    y, back = jax.vjp(lambda x, w: matmul(x, w, jnp.float32), x, w)
    exact = np.asarray(x, np.float64) @ np.asarray(w.astype(x.dtype), np.float64)
    np.testing.assert_allclose(y, exact, atol=1e-5)  # 8-term sums
    expected = jax.vjp(matmul, x, w)[1](g)
    for a, b in zip(back(g.astype(jnp.float32)), expected, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


@pytest.mark.parametrize("out", [5, 11], ids=["narrower", "wider"])
def test_gradients_in_float32_equal_autodiff(out):
    x = jnp.asarray(RNG.standard_normal((4, 64, 8)), jnp.float32)
    w, g = (jnp.asarray(RNG.standard_normal((*n, out)), jnp.float32) for n in ((8,), (4, 64)))
    ours = jax.jit(lambda *a: jax.vjp(matmul, *a[:2])[1](a[2]))(x, w, g)
    theirs = jax.vjp(jnp.matmul, x, w)[1](g)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-5)  # 256-term sums


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("n", "out"), [(64, 16), (16, 64)])
def test_a_cpu_forms_the_gradient_of_w_with_its_longer_side_last(n, out, turned):
    if jax.default_backend() != "cpu":
        pytest.skip("other backends choose for themselves")
    x, g = (jnp.ones((128, size), jnp.float32) for size in (n, out))
    product = (lambda *a: rows_dot(*a).T) if turned else rows_dot
    program = jax.jit(product).lower(x, g).compile().as_text()
    assert re.search(r"f32\[16,64\]\S* dot\(", program)
