"""The wave mixer: whatever its dilation, as if zeros came before the first token."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax.nn.sine import SineConfig
from psann_jax.nn.wave import Wave
from psann_jax.seq import Seq

B, T, D = 2, 6, 4
X = jnp.asarray(np.random.default_rng(0).standard_normal((B, T, D)), jnp.float32)
SEQ = Seq(jnp.arange(T)[None])


def _wave(dilation):
    sine = SineConfig()
    return Wave(D, kernel=3, dilation=dilation, act="sine", sine=sine, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("dilation", [1, 2, 3, 5, 6, 1000])
def test_a_tap_is_zero_where_it_reaches_before_the_row(dilation):
    wave = _wave(dilation)
    alone, _ = wave(X, SEQ)
    after_zeros, _ = wave(X, SEQ, wave.init_state(B, T, X.dtype))
    np.testing.assert_allclose(alone, after_zeros, atol=1e-6)


def test_a_tap_that_no_token_reaches_costs_no_memory():
    def loss(x):
        return jnp.sum(_wave(1000)(x, SEQ)[0])

    sizes = [v.aval.size for e in jax.make_jaxpr(jax.grad(loss))(X).eqns for v in e.outvars]
    assert max(sizes) <= 4 * X.size
