"""A base with any of its options: causal, one function in all forms, blind to its neighbours."""

import dataclasses

from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax import bases
from psann_jax.model import LM, trainable, with_trained
from psann_jax.nn.fusion import FUSIONS, FusionConfig
from psann_jax.nn.mamba2 import Mamba2Config
from psann_jax.nn.mixed import MixedConfig
from psann_jax.nn.sine import PARAMETERS, SineConfig
from psann_jax.nn.sparse import GeometryConfig
from psann_jax.seq import Seq

SIZES = {"vocab_size": 16, "d_model": 8, "n_layers": 2, "d_mlp": 12, "dtype": "float32"}
T, CHANGED, TOLERANCE = 10, 6, 2e-5

SINES = st.builds(
    SineConfig,
    amplitude=st.sampled_from([0.5, 1.0]),
    frequency=st.sampled_from([1.0, 4.0]),
    frequency_std=st.sampled_from([0.0, 0.3]),
    damping_range=st.sampled_from([None, (0.0, 0.2)]),
    amplitude_bounds=st.sampled_from([None, (0.8, None)]),
    envelope=st.sampled_from(["abs", "relu", "none"]),
    learnable=st.sampled_from([PARAMETERS, (), ("frequency",)]),
)
RESIDUAL = {
    "norm": st.sampled_from(["rms", "layer", "none"]),
    "alpha_init": st.sampled_from([0.3, 1.0]),
}
SINE_OF_MLP = st.fixed_dictionaries({"mlp_activation": st.just("sine"), "sine": SINES})
SINE_OR_NOT = st.one_of(
    st.fixed_dictionaries({"sine": SINES}),
    st.fixed_dictionaries({"mlp_activation": st.sampled_from(["gelu", "relu", "tanh"])}),
)
GEOMETRIES = st.builds(
    GeometryConfig,
    shape=st.sampled_from([None, (2, 6), (12, 1)]),
    k=st.integers(1, 11),
    pattern=st.sampled_from(["local", "random", "hash"]),
    radius=st.integers(0, 2),
    wrap_mode=st.sampled_from(["clamp", "wrap"]),
    bias=st.booleans(),
    seed=st.sampled_from([None, 3]),
    depth=st.integers(1, 2),
)
GEOMETRIES |= st.builds(GeometryConfig, k=st.integers(1, 3), offsets=st.just(((0, 1), (-1, 2))))
MIXES = st.builds(
    MixedConfig,
    types=st.sampled_from([("sine", "gelu"), ("tanh", "relu", "sine"), ("relu", "gelu")]),
    layout=st.sampled_from(["random", "contiguous"]),
    seed=st.sampled_from([None, 3]),
)


def _one_of_fields(**fields):
    return st.fixed_dictionaries(fields)


OPTIONS = {
    "transformer": _one_of_fields(
        norm=st.sampled_from(["rms", "layer"]),
        mlp_activation=st.sampled_from(["gelu", "relu", "tanh", "swiglu", "geglu"]),
    ),
    "respsann": _one_of_fields(**RESIDUAL),
    "waveresnet": _one_of_fields(
        **RESIDUAL,
        wave=st.sampled_from(["interleave", "replace"]),
        kernel=st.integers(1, 4),
        dilation_growth=st.integers(1, 3),
    ),
    "sgrpsann": _one_of_fields(
        **RESIDUAL,
        k_fft=st.integers(2, 14),
        gate_type=st.sampled_from(["rfft", "fourier_features"]),
        gate_groups=st.sampled_from(["depthwise", "full"]),
        gate_init=st.sampled_from([-1.0, 0.0, 2.0]),
        gate_strength=st.sampled_from([0.5, 1.0]),
    ),
    "geosparse": _one_of_fields(**RESIDUAL, geometry=GEOMETRIES),
    "groundthink": _one_of_fields(
        fusion=st.builds(FusionConfig, kind=st.sampled_from(list(FUSIONS)), out_norm=st.booleans()),
        mamba=st.builds(
            Mamba2Config,
            expand=st.integers(1, 2),
            head_dim=st.sampled_from([None, 4]),
            d_state=st.integers(1, 5),
            n_groups=st.integers(1, 2),
            kernel=st.integers(1, 4),
            dt_limit=st.sampled_from([(0.0, None), (0.01, 0.1)]),
        ).filter(lambda mamba: mamba.n_groups == 1 or mamba.head_dim == 4),
        tie_embeddings=st.booleans(),
    ),
}
SINES_OF = {
    "transformer": st.just({}),
    "groundthink": st.one_of(SINE_OF_MLP, st.just({"mlp_activation": "channel_mix"})),
    "geosparse": st.one_of(
        SINE_OR_NOT, MIXES.map(lambda mixed: {"mlp_activation": "mixed", "mixed": mixed})
    ),
}


@st.composite
def _bases(draw, name):
    heads = draw(st.sampled_from([1, 2]))
    positions = draw(st.sampled_from(bases.get(name).positions))
    options = {**draw(OPTIONS[name]), **draw(SINES_OF.get(name, SINE_OR_NOT))}
    return bases.get(name)(**SIZES, n_heads=heads, positional_encoding=positions, **options)


def _packed():
    """Documents of CHANGED and T - CHANGED tokens in one row."""
    positions = np.concatenate([np.arange(CHANGED), np.arange(T - CHANGED)])
    return Seq(positions[None], np.repeat([[1, 2]], [CHANGED, T - CHANGED], axis=1))


@jax.jit
def _forms(model, scanned, tokens, changed, packed):
    """Logits of the same tokens by every way there is to compute them."""
    first, state = model(tokens[:, :4], None, model.init_state(tokens.shape[0], T))
    second, state = model(tokens[:, 4:5], None, state)
    third, _ = model(tokens[:, 5:], None, state)
    # One code for both, which may be told from each other to the bit.
    full, after = jax.lax.map(lambda row: model(row)[0], jnp.stack([tokens, changed]))
    return {
        "full": full,
        "changed": after,
        "scanned": scanned(tokens)[0],
        "decoded": jnp.concatenate([first, second, third], axis=1),
        "packed": model(tokens, packed)[0],
        "alone": model(tokens[:, CHANGED:])[0],
    }


@pytest.mark.parametrize("name", OPTIONS)
def test_a_base_keeps_its_promises_whatever_its_options(name):
    @settings(max_examples=2)
    @given(_bases(name))
    def check(base):
        model = LM(base, rngs=nnx.Rngs(0))
        rng = np.random.default_rng(1)
        moved = [a + 0.1 * rng.standard_normal(a.shape).astype("f") for a in _weights(model)]
        model = with_trained(model, moved)
        deep = dataclasses.replace(base, scan_layers=True)
        like = jax.eval_shape(lambda: LM(deep, rngs=nnx.Rngs(0)))
        scanned = jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(model))
        tokens = rng.integers(0, 16, (1, T)).astype(np.int32)
        changed = tokens.copy()
        changed[:, CHANGED] += 1
        got = _forms(model, scanned, tokens, changed % 16, _packed())
        full = np.asarray(got["full"])
        np.testing.assert_array_equal(got["changed"][:, :CHANGED], full[:, :CHANGED])
        close = {"atol": TOLERANCE * max(1.0, np.abs(full).max()), "rtol": 0}
        np.testing.assert_allclose(got["scanned"], full, **close)
        np.testing.assert_allclose(got["decoded"], full, **close)
        np.testing.assert_allclose(got["packed"][:, :CHANGED], full[:, :CHANGED], **close)
        np.testing.assert_allclose(got["packed"][:, CHANGED:], got["alone"], **close)

    check()


def _weights(model):
    return jax.tree.leaves(trainable(model))
