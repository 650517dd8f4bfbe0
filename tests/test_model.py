"""The LM around a base: counts, states, errors."""

from functools import partial

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax import bases
from psann_jax.model import LM, decaying, flops_per_token, matrices, parameter_count, rates
from psann_jax.nn.block import Residual
from psann_jax.nn.stack import Stack, repeat_index

DOCUMENTED = {"vocab_size": 32_000, "d_model": 512, "n_layers": 8, "n_heads": 8, "d_mlp": 2048}


def _abstract(name, **fields):
    base = bases.get(name)(**fields)
    return base, jax.eval_shape(lambda: LM(base, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize(
    ("name", "fields", "count"),
    [
        ("respsann", {}, 58_012_168),
        ("respsann", {"mlp_activation": "gelu"}, 57_963_016),
        ("waveresnet", {"wave": "off"}, 58_012_168),
        ("waveresnet", {"wave": "interleave"}, 60_142_088),
        ("waveresnet", {"wave": "psannlm-replace"}, 43_295_240),
        ("sgrpsann", {}, 58_151_432),
        ("transformer", {}, 57_971_712),
        ("geosparse", {}, 58_323_472),
    ],
)
def test_parameters_are_as_many_as_the_originals(name, fields, count):
    assert parameter_count(_abstract(name, **DOCUMENTED, **fields)[1]) == count


def test_wave_is_on_by_default():
    assert bases.get("waveresnet")().wave == "interleave"


def test_matrices_are_what_has_two_logical_axes():
    _, model = _abstract("waveresnet", vocab_size=8, d_model=8, n_heads=2, n_layers=2)
    is_matrix = matrices(model)
    attention, mlp, _ = is_matrix.stack.layers
    assert all(jax.tree.leaves((attention.mixer, is_matrix.embed, is_matrix.head)))
    assert not any(jax.tree.leaves((attention.norm, mlp.alpha, mlp.mixer.act)))


def test_flops_count_six_a_matrix_parameter_and_causal_attention():
    base, model = _abstract("transformer", **DOCUMENTED)
    matmul = 8 * (4 * 512 * 512 + 2 * 512 * 2048) + 512 * 32_000
    assert flops_per_token(model, base, 1024) == 6 * matmul + 6 * 8 * 1024 * 512


def test_a_tied_head_reads_the_embedding_and_counts_as_a_matrix():
    base, model = _abstract("transformer", **DOCUMENTED, tie_embeddings=True)
    alone, apart = _abstract("transformer", **DOCUMENTED)
    assert parameter_count(apart) - parameter_count(model) == 512 * 32_000
    assert flops_per_token(model, base, 1024) == flops_per_token(apart, alone, 1024)
    small = LM(
        bases.get("transformer")(
            vocab_size=8, d_model=4, n_heads=1, n_layers=1, dtype="float32", tie_embeddings=True
        ),
        rngs=nnx.Rngs(0),
    )
    features, _ = small.features(jnp.zeros((1, 2), jnp.int32))
    expected = features @ small.embed.table[...].T
    np.testing.assert_allclose(small(jnp.zeros((1, 2), jnp.int32))[0], expected, atol=1e-6)


def test_a_parameter_may_be_declared_without_decay_and_with_a_rate_of_its_own():
    model = {
        "plain": nnx.Param(jnp.ones((2, 2)), axes=("embed", "mlp")),
        "lora": nnx.Param(jnp.ones((2, 2)), axes=("embed", None), decay=False, rate=2.0),
        "scale": nnx.Param(jnp.ones((2,)), axes=("norm",)),
    }
    assert [bool(x) for x in jax.tree.leaves(decaying(model))] == [False, True, False]
    assert jax.tree.leaves(rates(model)) == [2.0, 1.0, 1.0]


def test_initial_values_may_depend_on_the_layer():
    class Deep(nnx.Module):
        def __init__(self, d_model, *, rngs):
            self.depth = nnx.Param(jnp.full((d_model,), repeat_index(), jnp.float32), axes=(None,))

    stack = Stack(2, ((partial(Residual, mixer=Deep),),), 3, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(stack.layers[0].mixer.depth[...][:, 0], [0, 1, 2])
    assert repeat_index() == 0


def test_a_vocabulary_must_be_known():
    with pytest.raises(ValueError, match=r"base\.vocab_size is not set"):
        LM(bases.get("respsann")(), rngs=nnx.Rngs(0))


def test_layers_must_fill_whole_periods():
    class Two(bases.ResPSANN):
        def pattern(self):
            return super().pattern() * 2

    with pytest.raises(ValueError, match="n_layers=3 is not a multiple of the 2 blocks"):
        LM(Two(vocab_size=8, d_model=8, n_heads=2, n_layers=3), rngs=nnx.Rngs(0))
