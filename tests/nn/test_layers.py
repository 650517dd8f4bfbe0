"""Norms, dropout, linear maps: their formulas, their dtypes, their axes."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax.nn.dropout import dropout
from psann_jax.nn.linear import Embedding, Linear
from psann_jax.nn.norm import NORMS, LayerNorm, RMSNorm

RNG = np.random.default_rng(0)


def test_rms_norm_equals_the_original(golden):
    arrays = golden("aux_public").arrays
    norm = RMSNorm(10)
    norm.scale = nnx.Param(jnp.asarray(arrays["rmsnorm/scale"]))
    # A square, a mean of ten, a root and two products, each rounded once.
    np.testing.assert_allclose(norm(arrays["rmsnorm/x"]), arrays["rmsnorm/y"], rtol=1e-6, atol=1e-7)


def test_layer_norm_has_the_mean_and_variance_it_learned():
    norm = LayerNorm(64)
    norm.scale, norm.bias = nnx.Param(jnp.full(64, 3.0)), nnx.Param(jnp.full(64, 0.5))
    y = norm(jnp.asarray(5 + 2 * RNG.standard_normal((4, 64)), jnp.float32))
    np.testing.assert_allclose(y.mean(-1), 0.5, atol=1e-5)  # a sum of 64 terms
    np.testing.assert_allclose(y.std(-1), 3.0, rtol=1e-4)  # less by its 1e-5 under the root


@pytest.mark.parametrize("name", NORMS)
def test_norms_compute_in_float32_and_return_their_inputs_dtype(name):
    norm = NORMS[name](64)
    x = jnp.asarray(RNG.standard_normal((3, 64)), jnp.bfloat16)
    y = norm(x)
    assert y.dtype == jnp.bfloat16
    # One rounding to 8 bits at the end, of numbers up to 4.
    np.testing.assert_allclose(y.astype(np.float32), norm(x.astype(jnp.float32)), atol=2**-7)


def _formula(x, scale, centred, epsilon):
    x = x - jnp.mean(x, -1, keepdims=True) if centred else x
    return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + epsilon) * scale


@pytest.mark.parametrize(("name", "epsilon"), [("rms", 1e-6), ("layer", 1e-5)])
@pytest.mark.parametrize("size", [1.0, 1e-3])  # one where epsilon counts
def test_gradients_of_norms_are_those_of_their_formulas(name, epsilon, size):
    x, g = size * RNG.standard_normal((2, 3, 5, 16)).astype(np.float32)
    norm = NORMS[name](16)
    norm.scale = nnx.Param(jnp.linspace(-1, 2, 16))
    scale = norm.scale[...]
    _, pull = jax.vjp(lambda norm, x: norm(x), norm, x)
    ours, dx = pull(g)
    _, pull = jax.vjp(lambda x, s: _formula(x, s, name == "layer", epsilon), x, scale)
    np.testing.assert_allclose(dx, (expected := pull(g))[0], rtol=1e-4, atol=1e-5 * size)
    np.testing.assert_allclose(ours.scale[...], expected[1], rtol=1e-4, atol=1e-5 * size)
    if name == "layer":
        np.testing.assert_allclose(ours.bias[...], g.sum((0, 1)), rtol=1e-5, atol=1e-6 * size)


@pytest.mark.parametrize("name", NORMS)
def test_norms_of_zeros_are_finite(name):
    gradient = jax.grad(lambda x: jnp.sum(NORMS[name](4)(x)))(jnp.zeros((2, 4)))
    assert np.isfinite(gradient).all()


def test_dropout_without_a_key_is_the_identity():
    x = jnp.ones((3, 4))
    assert dropout(x, 0.5, None) is x


def test_dropout_by_the_same_key_drops_the_same():
    x, key = jnp.ones((64, 64)), jax.random.key(0)
    np.testing.assert_array_equal(dropout(x, 0.3, key), dropout(x, 0.3, key))
    assert np.any(dropout(x, 0.3, key) != dropout(x, 0.3, jax.random.key(1)))


def test_dropout_scales_what_it_keeps():
    y = np.asarray(dropout(jnp.ones((128, 128)), 0.25, jax.random.key(0)))
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    # 16384 draws: five standard deviations are 0.017.
    assert abs(np.mean(y == 0) - 0.25) < 0.017


def test_dropout_keeps_bfloat16():
    assert dropout(jnp.ones(4, jnp.bfloat16), 0.5, jax.random.key(0)).dtype == jnp.bfloat16


def test_linear_starts_xavier_uniform_with_a_zero_bias():
    linear = Linear(100, 50, ("embed", "mlp"), bias=True, rngs=nnx.Rngs(0))
    kernel, limit = np.asarray(linear.kernel[...]), np.sqrt(6 / 150)
    assert np.abs(kernel).max() <= limit
    # 5000 uniform draws: their deviation is within 3 percent of limit / sqrt(3).
    np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.03)
    np.testing.assert_array_equal(linear.bias[...], 0)


def test_linear_adds_its_bias_in_the_dtype_of_x():
    linear = Linear(3, 2, ("embed", "mlp"), bias=True, rngs=nnx.Rngs(0))
    linear.bias = nnx.Param(jnp.asarray([1.0, -2.0]))
    y = linear(jnp.zeros((1, 3), jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y.astype(np.float32), [[1.0, -2.0]])


def test_embedding_starts_with_deviation_a_fiftieth():
    table = np.asarray(Embedding(200, 50, rngs=nnx.Rngs(0)).table[...])
    np.testing.assert_allclose(table.std(), 0.02, rtol=0.04)  # 10000 draws


@pytest.mark.parametrize("base", ["respsann", "transformer", "waveresnet"])
def test_parameters_are_float32_and_of_no_weak_type(tiny, base):
    """A weak type turns strong in the first update, and the step would compile again."""
    for leaf in jax.tree.leaves(tiny(base)):
        assert leaf.dtype == jnp.float32
        assert not leaf.weak_type
