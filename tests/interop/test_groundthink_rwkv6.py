"""RWKV-6 layers from GroundThink's arrays: names, prefixes, heads, and what is missing."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax.interop.groundthink import rwkv6_channelmix, rwkv6_layer
from psann_jax.seq import Seq

GOLDEN = Path(__file__).parents[1] / "golden" / "groundthink"


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "rwkv6_timemix_small.npz") as file:
        return {name: file[name] for name in file.files if name.startswith("W/")}


def test_sizes_are_read_from_the_arrays(arrays):
    layer = rwkv6_layer(arrays, {"groupnorm_eps": 1e-3})
    assert (layer.n_heads, layer.norm_eps) == (2, 1e-3)
    assert layer.mix_up.shape == (5, 8, 32)
    assert layer.decay_up.shape == (8, 32)
    np.testing.assert_array_equal(layer.r.kernel[...], arrays["W/Wr"].astype("f"))
    np.testing.assert_array_equal(layer.mix[...][1], arrays["W/mu_k"].astype("f"))


def test_the_prefix_may_be_left_out_and_the_bonus_be_flat(arrays):
    bare = {name[2:]: a for name, a in arrays.items()} | {"u": arrays["W/u"].reshape(-1)}
    layer = rwkv6_layer(bare, {"n_heads": 4})
    assert layer.n_heads == 4
    np.testing.assert_array_equal(layer.bonus[...], arrays["W/u"].reshape(-1).astype("f"))


def test_a_flat_bonus_asks_for_the_number_of_heads(arrays):
    with pytest.raises(ValueError, match="n_heads"):
        rwkv6_layer(arrays | {"W/u": arrays["W/u"].reshape(-1)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"W/w0": None}, "lacks w0"),
        ({"W/Wo": np.zeros((32, 31))}, r"o.kernel has shape \(32, 31\) where \(32, 32\)"),
    ],
)
def test_what_does_not_fit_is_named(arrays, change, said):
    changed = {name: a for name, a in (arrays | change).items() if a is not None}
    with pytest.raises(ValueError, match=said):
        rwkv6_layer(changed)


def test_channel_mix_reads_its_width():
    with np.load(GOLDEN / "rwkv6_channelmix.npz") as file:
        layer = rwkv6_channelmix(dict(file))
    assert layer.k.kernel.shape == (24, 80)


@pytest.mark.parametrize(
    "config", [{"dims": {"H": 4}}, {"dims": {"N": 8}}, {"head_size": 8}, {"n_heads": 4, "N": 8}]
)
def test_heads_of_a_flat_bonus_may_be_told_in_many_ways(arrays, config):
    assert rwkv6_layer(arrays | {"W/u": arrays["W/u"].reshape(-1)}, config).n_heads == 4


@pytest.mark.parametrize(
    ("shape", "config"),
    [
        ((2, 16), {"n_heads": 4}),
        ((2, 16), {"head_size": 32}),
        ((32,), {"head_size": 5}),
        ((32,), {"n_heads": 2, "head_size": 8}),
    ],
)
def test_heads_that_do_not_fit_are_refused(arrays, shape, config):
    bonus = arrays["W/u"].reshape(shape)
    with pytest.raises(ValueError, match=r"u has shape .*is not that of n_heads="):
        rwkv6_layer(arrays | {"W/u": bonus}, config)


def test_gradients_flow_to_every_array(arrays):
    x = jax.random.normal(jax.random.key(0), (1, 6, 32))

    def loss(arrays):
        y, _ = rwkv6_layer(arrays)(x, Seq(jnp.arange(6)[None]))
        return jnp.sum(y * y)

    gradients = jax.grad(loss)({n: jnp.asarray(a, jnp.float32) for n, a in arrays.items()})
    assert all(jnp.any(g != 0) for g in gradients.values())
