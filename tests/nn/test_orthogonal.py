"""Orthogonal initial values: orthonormal, even, and without a factorisation that can hang."""

from flax import nnx
import jax
import numpy as np
import pytest

from psann_jax import bases
from psann_jax.model import LM
from psann_jax.nn.orthogonal import orthogonal


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7), (1, 4), (1, 1)])
def test_the_shorter_side_is_orthonormal_times_the_gain(shape):
    q = np.asarray(orthogonal(0.5)(jax.random.key(0), shape)) / 0.5
    product = q.T @ q if shape[0] >= shape[1] else q @ q.T
    np.testing.assert_allclose(product, np.eye(min(shape)), atol=1e-6)


def test_entries_are_as_those_of_an_even_distribution():
    keys = jax.random.split(jax.random.key(1), 4000)
    q = np.asarray(jax.vmap(lambda key: orthogonal()(key, (3, 3)))(keys))
    # By Haar's measure: mean 0, variance 1 / n, fourth moment 3 / (n (n + 2)); signs of det even.
    np.testing.assert_allclose(q.mean(0), 0, atol=0.04)
    np.testing.assert_allclose((q**2).mean(0), 1 / 3, atol=0.02)
    np.testing.assert_allclose((q**4).mean(0), 3 / 15, atol=0.02)
    assert abs(np.mean(np.linalg.det(q) > 0) - 0.5) < 0.04


@pytest.mark.parametrize("name", bases.names())
def test_no_base_is_drawn_by_lapack(name):
    base = bases.get(name)(vocab_size=8, d_model=16, n_layers=2, n_heads=2)
    drawn = jax.jit(lambda key: jax.tree.leaves(LM(base, rngs=nnx.Rngs(key))))
    assert "lapack" not in drawn.lower(jax.random.key(0)).as_text().lower()
