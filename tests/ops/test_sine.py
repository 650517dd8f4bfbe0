"""The damped sine: upstream's numbers, its phase, its gradients."""

import functools

from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from psann_jax.nn.sine import inverse_softplus
from psann_jax.ops import sine as ops

CASES = [f"sine_public_{i:02d}" for i in range(7)]


@pytest.fixture(params=CASES)
def solved(request, golden):
    """The reference's arrays, and ours under its cotangent."""
    data = golden(request.param)
    return data.arrays, reference.of_sine(data)


def test_sine_equals_the_original(solved):
    theirs, ours = solved
    # A few float32 roundings; amplitudes are up to 10.
    np.testing.assert_allclose(ours["y"], theirs["y"], atol=3e-6, rtol=2e-6)


def test_gradient_of_the_input_equals_the_original(solved):
    theirs, ours = solved
    # y times the frequency, up to 5: as many roundings more.
    np.testing.assert_allclose(ours["g_z"], theirs["g_z"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("letter", "Afd")
def test_gradient_of_raw_parameters_equals_the_original(solved, letter):
    theirs, ours = (arrays[f"g_{letter}"] for arrays in solved)
    largest = max(1.0, np.abs(theirs).max())
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * largest)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("i", "letter"), list(enumerate("Afd")))
def test_raw_parameters_start_as_in_the_original(golden, name, i, letter):
    data = golden(name)
    value = data.case["init_amp_freq_decay"][i]
    # log(expm1(v)) in float32 against our stable form: 1e-5 is its error near v = 0.01.
    expected = data.arrays[f"init_{letter}"]
    np.testing.assert_allclose(inverse_softplus(value), expected[0], rtol=1e-5, atol=1e-6)


@given(st.floats(2.0**-20, 2.0**127, width=32))
def test_inverse_softplus_is_inverted_by_softplus_at_any_size(value):
    raw = inverse_softplus(value)
    assert np.isfinite(raw)
    np.testing.assert_allclose(jax.nn.softplus(raw), np.float32(value), rtol=2e-6)


def test_inverse_softplus_is_finite_where_expm1_overflows():
    assert float(inverse_softplus(100.0)) == 100.0
    assert np.isfinite(inverse_softplus(0.0))


@pytest.mark.parametrize(
    ("largest", "within"), [(1e2, 2e-7), (2e4, 2e-7), (1e6, 2e-7), (1e8, 2e-7), (2e9, 3e-7)]
)
def test_sincos_is_as_exact_as_it_says(largest, within):
    x = np.random.default_rng(0).uniform(-largest, largest, 100_000).astype(np.float32)
    s, c = jax.jit(ops.sincos)(x)
    assert np.abs(s - np.sin(x.astype(np.float64))).max() <= within
    assert np.abs(c - np.cos(x.astype(np.float64))).max() <= within


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=8))
def test_sincos_is_exact_to_a_millionth(values):
    x = np.zeros(8, np.float32)
    x[: len(values)] = values
    s, c = jax.jit(ops.sincos)(x)
    np.testing.assert_allclose(s, np.sin(x.astype(np.float64)), atol=1e-6, rtol=0)
    np.testing.assert_allclose(c, np.cos(x.astype(np.float64)), atol=1e-6, rtol=0)


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=8))
def test_sincos_stays_in_the_unit_interval_for_huge_arguments(values):
    x = np.zeros(8, np.float32)
    x[: len(values)] = values
    for wave in jax.jit(ops.sincos)(x):
        assert np.all(np.abs(wave) <= 1)


def test_sincos_of_zero_is_exact():
    s, c = ops.sincos(jnp.zeros(1))
    assert float(s[0]) == 0.0
    assert float(c[0]) == 1.0


def _random(rows, features, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    z = jnp.asarray(3 * rng.standard_normal((rows, features)), dtype)
    g = jnp.asarray(rng.standard_normal((rows, features)), dtype)
    params = [jnp.asarray(rng.uniform(0.1, 2.0, features), jnp.float32) for _ in range(3)]
    return z, g, params


@pytest.mark.parametrize("envelope", ops.ENVELOPES)
@pytest.mark.parametrize("rows", [128, 9], ids=["blocked", "whole"])
def test_backward_equals_autodiff_of_the_reference(envelope, rows, monkeypatch):
    monkeypatch.setattr(ops, "_BLOCK", 32 * 6)  # four blocks of 128 rows
    z, g, params = _random(rows, 6)

    def gradients(function):
        run = functools.partial(function, envelope=envelope)
        return jax.jit(lambda *args: jax.vjp(run, *args)[1](g))(z, *params)

    ours, theirs = gradients(ops.sine), gradients(ops.reference)
    for ours_, theirs_ in zip(ours, theirs, strict=True):
        # Sums of 128 rows in another order.
        np.testing.assert_allclose(ours_, theirs_, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(("features", "rows"), [(1024, 256), (1000, 256), (6, 32768), (2**19, 1)])
def test_a_block_is_a_power_of_two_of_rows_within_a_megabyte_or_one_row(features, rows):
    assert ops._rows_of_block(features) == rows


def test_blocked_backward_is_what_a_cpu_runs():
    z, g, params = _random(128, 6)
    jaxpr = str(jax.make_jaxpr(lambda *a: jax.vjp(ops.sine, *a)[1](g))(z, *params))
    assert "scan" in jaxpr


def test_damping_has_no_gradient_without_an_envelope():
    z, _, params = _random(16, 4)
    slope = jax.grad(lambda d: jnp.sum(ops.sine(z, *params[:2], d, envelope="none")))(params[2])
    np.testing.assert_array_equal(slope, 0)


def test_relu_envelope_damps_positive_inputs_only():
    z = jnp.asarray([[-2.0], [2.0]])
    one = jnp.ones(1)
    y = ops.sine(z, one, one, one, envelope="relu")
    # exp and sin to a rounding each.
    np.testing.assert_allclose(y[0, 0], np.sin(-2.0), rtol=1e-6)
    np.testing.assert_allclose(y[1, 0], np.exp(-2.0) * np.sin(2.0), rtol=1e-6)


@pytest.mark.parametrize("rows", [3, 64])  # as a whole, and in a block
def test_gradients_can_be_differentiated_again(rows):
    z, g, params = _random(rows, 6)
    directions = [jnp.ones_like(z), *map(jnp.ones_like, params)]

    def slopes(function):
        def along(*arguments):
            grads = jax.grad(lambda *a: jnp.sum(g * function(*a)), argnums=(0, 1, 2, 3))(*arguments)
            return sum(jnp.sum(a * b) for a, b in zip(grads, directions, strict=True))

        return jax.grad(along, argnums=(0, 1, 2, 3))(z, *params)

    for ours, expected in zip(slopes(ops.sine), slopes(ops.reference), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_no_rows_have_no_gradient():
    z, g, params = _random(0, 6)
    dz, *sums = jax.vjp(ops.sine, z, *params)[1](g)
    assert dz.shape == (0, 6)
    assert not np.any(sums)


def test_parameters_of_float64_get_gradients_of_float64():
    with jax.enable_x64(True):
        z, g, params = _random(64, 6)
        wide = [p.astype(np.float64) for p in params]
        dz, *ours = jax.vjp(ops.sine, z, *wide)[1](g)
        expected = jax.vjp(ops.reference, z, *wide)[1](g)
    assert [a.dtype for a in (dz, *ours)] == ["float32", *["float64"] * 3]
    for a, b in zip((dz, *ours), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_sine_keeps_the_dtype_of_its_input():
    z, _, params = _random(4, 3, "bfloat16")
    assert ops.sine(z, *params).dtype == jnp.bfloat16


def test_sine_keeps_phase_in_bfloat16():
    z, _, (amplitude, _, _) = _random(64, 8, "bfloat16")
    frequency, damping = jnp.full(8, 10.0), jnp.zeros(8)
    exact = np.asarray(amplitude) * np.sin(10.0 * np.asarray(z, np.float64))
    y = ops.sine(z, amplitude, frequency, damping)
    # One rounding of the result to 8 bits: half a unit in the last place of a number up to 2.
    np.testing.assert_allclose(y.astype(np.float32), exact, atol=2**-8)


def test_gradients_of_parameters_stay_float32_under_bfloat16_inputs():
    z, _, params = _random(32, 4, "bfloat16")
    slopes = jax.grad(lambda p: jnp.sum(ops.sine(z, *p).astype(jnp.float32)))(params)
    wide = jax.grad(lambda p: jnp.sum(ops.sine(z.astype(jnp.float32), *p)))(params)
    for ours, exact in zip(slopes, wide, strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, exact, atol=1e-5, rtol=1e-5)


def test_a_scalar_has_a_gradient():
    slope = jax.grad(ops.sine)(0.5, 2.0, 3.0, 0.1)
    wave, damped = np.sin(1.5), 2 * np.exp(-0.05)
    assert float(slope) == pytest.approx(damped * (3 * np.cos(1.5) - 0.1 * wave), rel=1e-5)


def test_an_unknown_envelope_names_those_there_are():
    with pytest.raises(ValueError, match="envelope='exp' must be one of abs, relu, none"):
        ops.sine(jnp.zeros((1, 1)), *[jnp.ones(1)] * 3, envelope="exp")
