"""The sine's parameters: what they stand for, what bounds them, which of them learn."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax.nn.sine import PARAMETERS, Sine, SineConfig, activation, gelu

UPSTREAM = {"amplitude": "amplitude", "frequency": "frequency", "damping": "decay"}
LETTERS = {"amplitude": "A", "frequency": "f", "damping": "d"}


def _sine(config=None, features=4, seed=0):
    return Sine(features, config or SineConfig(), axis="mlp", rngs=nnx.Rngs(seed))


def _with_raw(config, **raw):
    module = _sine(config, len(next(iter(raw.values()))))
    for name, value in raw.items():
        setattr(module, name, nnx.Param(jnp.asarray(value, jnp.float32)))
    return module


@pytest.mark.parametrize("name", ["sine_public_00", "sine_public_04", "sine_public_05"])
def test_module_with_bounds_has_the_gradients_of_the_original(golden, name):
    data = golden(name)
    bounds = data.case["bounds"] or {}
    config = SineConfig(**{f"{n}_bounds": bounds.get(theirs) for n, theirs in UPSTREAM.items()})
    module = _with_raw(config, **{n: data.arrays[f"_{LETTERS[n]}"] for n in PARAMETERS})
    z, cotangent = (jnp.asarray(data.arrays[k], jnp.float32) for k in ("z", "cotangent"))
    y, back = jax.vjp(lambda m, z: m(z), module, z)
    gradient, g_z = back(cotangent)
    np.testing.assert_allclose(y, data.arrays["y"], atol=2e-6)  # a few float32 roundings
    np.testing.assert_allclose(g_z, data.arrays["g_z"], atol=1e-5)  # times f, up to 3
    for ours, letter in LETTERS.items():
        expected = data.arrays[f"g_{letter}"]
        largest = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(getattr(gradient, ours)[...], expected, atol=1e-5 * largest)


def test_frequency_is_a_millionth_above_its_softplus():
    value = _sine().value("frequency")
    np.testing.assert_allclose(value, 1.000001, rtol=2e-7)  # two roundings


def test_damping_starts_at_a_hundredth():
    np.testing.assert_allclose(_sine().value("damping"), 0.01, rtol=1e-5)


def test_deviation_draws_a_value_a_feature():
    values = np.asarray(
        _sine(SineConfig(frequency=3.0, frequency_std=0.5), 4000).value("frequency")
    )
    # 4000 draws: five standard errors of mean and deviation.
    assert abs(values.mean() - 3.0) < 0.04
    assert abs(values.std() - 0.5) < 0.03


def test_range_draws_one_value_a_layer():
    values = np.asarray(_sine(SineConfig(amplitude_range=(4.0, 2.0))).value("amplitude"))
    assert np.ptp(values) == 0
    assert 2.0 <= values[0] <= 4.0


def test_two_layers_draw_different_values_from_the_range():
    config = SineConfig(amplitude_range=(2.0, 4.0))
    a, b = (_sine(config, seed=s).value("amplitude")[0] for s in (0, 1))
    assert a != b


@pytest.mark.parametrize("learnable", [(), ("frequency",), ("amplitude", "damping")])
def test_parameters_that_do_not_learn_have_zero_gradient(learnable):
    module = _sine(SineConfig(learnable=learnable))
    z = jnp.asarray(np.random.default_rng(0).standard_normal((8, 4)), jnp.float32)
    gradient = jax.grad(lambda m: jnp.sum(m(z) ** 2))(module)
    for name in PARAMETERS:
        learns = bool(np.any(np.asarray(getattr(gradient, name)[...]) != 0))
        assert learns == (name in learnable), name


@pytest.mark.parametrize(
    ("value", "passes"), [(0.5, False), (1.0, True), (1.5, True), (2.0, True), (2.5, False)]
)
def test_gradient_passes_at_a_bound_and_inside_but_not_outside(value, passes):
    from psann_jax.nn.sine import _clamp

    clamped, slope = jax.value_and_grad(lambda v: _clamp(v, 1.0, 2.0))(jnp.float32(value))
    assert float(clamped) == min(max(value, 1.0), 2.0)
    assert float(slope) == float(passes)


BOUNDED = {
    "outside": {"frequency_bounds": (2.0, None)},
    "at the low bound": {"damping": 0.05, "damping_bounds": (0.05, 1.0)},
    "at the high bound": {"frequency": 1.0, "frequency_bounds": (None, 1.0)},
    "drawn": {"amplitude_std": 2.0, "amplitude_bounds": (0.5, 1.5)},
}


@pytest.mark.parametrize("fields", BOUNDED.values(), ids=BOUNDED)
def test_what_starts_at_a_bound_or_outside_learns(fields):
    module = _sine(SineConfig(**fields), features=64)
    z = jnp.asarray(np.random.default_rng(0).standard_normal((8, 64)), jnp.float32)
    gradient = jax.grad(lambda m: jnp.sum(m(z) ** 2))(module)
    name = next(iter(fields)).split("_")[0]
    assert np.all(np.asarray(getattr(gradient, name)[...]) != 0)
    (low, high) = fields[f"{name}_bounds"]
    values = np.asarray(module.value(name))
    assert (low or 0.0) <= values.min() and values.max() <= (high or np.inf)


def test_an_open_bound_bounds_nothing():
    module = _sine(SineConfig(amplitude=50.0, amplitude_bounds=(0.5, None)))
    np.testing.assert_allclose(module.value("amplitude"), 50.0, rtol=1e-6)


def test_the_sines_argument_is_float32_in_a_bfloat16_model():
    module = _sine(SineConfig(frequency=10.0, damping=0.0))
    z = jnp.asarray([[7.3125, -5.03125, 6.0, 3.3125]], jnp.bfloat16)
    exact = np.sin(10.0 * np.asarray(z, np.float64))
    # One rounding of a number up to 1 to 8 bits; a bfloat16 argument is off by 0.2.
    np.testing.assert_allclose(module(z).astype(np.float32), exact, atol=2**-8)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"amplitude": 0.0}, "sine.amplitude=0.0 must be positive"),
        ({"frequency": "1"}, r"base\.sine\.frequency='1' must be a number"),
        ({"frequency": -1.0}, "sine.frequency=-1.0 must be positive"),
        ({"frequency": float("nan")}, "sine.frequency=nan"),
        ({"damping": float("inf")}, "sine.damping=inf must be at least 0 and finite"),
        ({"envelope": "gauss"}, "sine.envelope='gauss' must be one of abs, relu, none"),
        ({"learnable": ("decay",)}, "sine.learnable names decay; it may name amplitude"),
        ({"frequency_bounds": (2.0, 1.0)}, "sine.frequency_bounds=.*low one exceeds"),
        ({"amplitude_range": (-1.0, 1.0)}, "sine.amplitude_range=.*>= 0"),
    ],
)
def test_a_bad_field_is_named(fields, said):
    with pytest.raises(ValueError, match=said):
        SineConfig(**fields)


def test_zero_damping_is_allowed_and_damps_nothing():
    module = _sine(SineConfig(damping=0.0))
    assert float(module.value("damping")[0]) < 2e-7


def test_gelu_is_the_exact_one():
    # erf to float32 rounding; the tanh form is off by 3e-4 here.
    np.testing.assert_allclose(gelu(jnp.float32(2.0)), 1.9544997361, rtol=1e-6)


def test_pointwise_activations_have_no_parameters():
    module = activation("gelu", 4, SineConfig(), axis="mlp", rngs=nnx.Rngs(0))
    assert not jax.tree.leaves(module)
