"""RWKV-6's mixers: the reference's numbers, initial values, states, documents and padding."""

import functools
import json
from pathlib import Path

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax import bases
from psann_jax.interop import groundthink
from psann_jax.model import LM, decaying, rates
from psann_jax.nn.block import Residual
from psann_jax.nn.rwkv6 import MIXED, ChannelMix, TimeMix, TimeMixState
from psann_jax.nn.stack import Stack
from psann_jax.seq import Seq
from psann_jax.train.state import named_arrays

GOLDEN = Path(__file__).parents[1] / "golden" / "groundthink"
SMALL, LARGE, CHANNEL = (
    "rwkv6_timemix_small",
    "rwkv6_timemix_hd32_default_ranks",
    "rwkv6_channelmix",
)


@functools.cache
def _golden(name):
    """The arrays of a golden file, what the manifest says of it, and its layer."""
    config = json.loads((GOLDEN / "manifest.json").read_text())["files"][f"{name}.npz"]
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = dict(file)
    make = groundthink.rwkv6_channelmix if name == CHANNEL else groundthink.rwkv6_layer
    return arrays, config, make(arrays, config)


def _seq(length, segments=None, start=0):
    positions = jnp.arange(start, start + length, dtype=jnp.int32)[None]
    return Seq(positions, segments)


def _off(value, wanted):
    """The largest difference as a share of the largest value."""
    return np.max(np.abs(np.asarray(value, np.float64) - wanted)) / np.max(np.abs(wanted))


@jax.jit
def _run(layer, x, seq, state=None):
    return layer(x, seq, state)


def _start(arrays):
    return TimeMixState(jnp.asarray(arrays["shift0"])[:, None], jnp.asarray(arrays["S0"]))


@pytest.mark.parametrize("name", [SMALL, LARGE])
def test_time_mix_equals_the_reference(name):
    arrays, _, layer = _golden(name)
    length = arrays["x"].shape[1]
    y, state = _run(layer, arrays["x"], _seq(length, start=1), _start(arrays))
    assert _off(y, arrays["y"]) < 5e-6
    assert _off(state.wkv, arrays["S"]) < 5e-6
    assert _off(state.shift[:, 0], arrays["shift"]) < 1e-6
    empty = layer.init_state(len(y), length, jnp.float32)
    y, state = _run(layer, arrays["x"], _seq(length), empty)
    assert _off(y, arrays["y_zero_state"]) < 5e-6
    assert _off(state.wkv, arrays["S_zero_state"]) < 5e-6


def test_without_a_state_a_row_starts_from_zeros():
    arrays, _, layer = _golden(SMALL)
    y, state = _run(layer, arrays["x"], _seq(arrays["x"].shape[1]))
    assert _off(y, arrays["y_zero_state"]) < 5e-6
    assert state is None


@pytest.mark.parametrize("name", [SMALL, LARGE])
def test_time_mix_has_the_references_gradients(name):
    arrays, _, layer = _golden(name)

    @jax.jit
    def gradients(layer, x, state):
        seq = _seq(x.shape[1], start=1)
        return jax.grad(lambda *a: jnp.sum(a[0](a[1], seq, a[2])[0] * arrays["cot_y"]), (0, 1, 2))(
            layer, x, state
        )

    by_layer, x, state = gradients(layer, jnp.asarray(arrays["x"]), _start(arrays))
    wanted = {k.removeprefix("grad/"): a for k, a in arrays.items() if k.startswith("grad/")}
    for ours, theirs in groundthink.RWKV6_NAMES.items():
        gradient = functools.reduce(getattr, ours.split("."), by_layer)[...]
        assert _off(gradient, wanted[theirs]) < 1e-5, theirs
    for name, row in zip(MIXED, by_layer.mix[...], strict=True):
        assert _off(row, wanted[f"mu_{name}"]) < 1e-5
    assert _off(by_layer.bonus[...], wanted["u"].reshape(-1)) < 1e-5
    assert _off(x, arrays["grad_x"]) < 1e-5
    assert _off(state.wkv, arrays["grad_S0"]) < 1e-5
    assert _off(state.shift[:, 0], arrays["grad_shift0"]) < 1e-5


def test_tokens_one_by_one_equal_the_reference():
    arrays, _, layer = _golden(SMALL)
    state, outputs = _start(arrays), []
    for t in range(arrays["x"].shape[1]):
        y, state = _run(layer, arrays["x"][:, t : t + 1], _seq(1, start=t + 1), state)
        outputs.append(y)
    assert _off(np.concatenate(outputs, 1), arrays["y"]) < 5e-6
    assert _off(state.wkv, arrays["S"]) < 5e-6


@pytest.mark.parametrize("name", [SMALL, LARGE])
def test_documents_start_where_the_reference_resets(name):
    arrays, _, layer = _golden(name)
    starts, steps = arrays["reset"], np.arange(1, arrays["x"].shape[1] + 1)
    last = np.maximum.accumulate(np.where(starts, steps, 0), 1)
    positions = jnp.asarray(steps - last)  # from 1 in what goes on from the state
    y, state = _run(layer, arrays["x"], Seq(positions), _start(arrays))
    assert _off(y, arrays["y_reset"]) < 5e-6
    assert _off(state.wkv, arrays["S_reset"]) < 5e-6


def test_channel_mix_equals_the_reference():
    arrays, _, layer = _golden(CHANNEL)
    length, shift = arrays["x"].shape[1], jnp.asarray(arrays["shift0"])[:, None]
    y, state = _run(layer, arrays["x"], _seq(length, start=1), shift)
    assert _off(y, arrays["y"]) < 5e-6
    np.testing.assert_array_equal(state[:, 0], arrays["x"][:, -1])
    assert _off(_run(layer, arrays["x"], _seq(length))[0], arrays["y_zero_shift"]) < 5e-6

    @jax.jit
    def gradients(layer, x):
        return jax.grad(
            lambda layer, x: jnp.sum(layer(x, _seq(length, start=1), shift)[0] * arrays["cot_y"]),
            (0, 1),
        )(layer, x)

    by_layer, x = gradients(layer, jnp.asarray(arrays["x"]))
    assert _off(x, arrays["grad_x"]) < 1e-5
    for ours, theirs in groundthink.RWKV6_CHANNELMIX_NAMES.items():
        gradient = functools.reduce(getattr, ours.split("."), by_layer)[...]
        assert _off(gradient, arrays[f"grad/{theirs}"]) < 1e-5, theirs


@functools.cache
def _drawn(d_model, n_heads, n_layers):
    """The time mixes of a stack, their arrays stacked."""
    mixer = functools.partial(TimeMix, n_heads=n_heads, n_layers=n_layers)
    stack = Stack(
        d_model, ((functools.partial(Residual, mixer=mixer),),), n_layers, rngs=nnx.Rngs(0)
    )
    return stack.layers[0].mixer


@pytest.mark.parametrize("n_layers", [1, 4])
def test_initial_values_follow_the_depth(n_layers):
    """The formulas of BlinkDL's x060; the golden files hold trained-like weights alone."""
    d, mixer = 24, _drawn(24, 2, n_layers)
    channel, ramp = np.arange(d) / d, np.arange(d) / (d - 1)
    for layer in range(n_layers):
        down, up = 1 - layer / n_layers, layer / max(n_layers - 1, 1)
        mix = {name: 1 - channel**down for name in "wk"}
        mix |= {name: 1 - channel ** (down / 2) for name in "rg"}
        mix["v"] = 1 - (channel**down + 0.3 * up)
        wanted = {
            "first_mix": 1 - channel**down,
            "mix": np.stack([mix[name] for name in MIXED]),
            "decay_base": -6 + 5 * ramp ** (0.7 + 1.3 * up),
            "bonus": up * (1 - ramp) + 0.1 * ((np.arange(d) + 1) % 3 - 1),
            "norm_scale": np.full(d, ((1 + layer) / n_layers) ** 0.7),
        }
        for name, value in wanted.items():
            drawn = getattr(mixer, name)[...][layer]
            np.testing.assert_allclose(drawn, value, atol=2e-6, err_msg=name)


def test_matrices_start_orthogonal_and_outputs_at_zero():
    mixer = _drawn(24, 2, 4)
    for kernel, gain in ((mixer.r, 1.0), (mixer.k, 0.1), (mixer.v, 1.0), (mixer.g, 0.1)):
        w = kernel.kernel[...][1]
        np.testing.assert_allclose(w @ w.T, gain**2 * np.eye(24), atol=1e-5)
    for zero in (mixer.o.kernel, mixer.mix_down, mixer.decay_down, mixer.norm_bias):
        np.testing.assert_array_equal(zero[...], 0)
    for small in (mixer.mix_up, mixer.decay_up):
        assert 0.009 < np.abs(small[...]).max() <= 0.01


def test_channel_mix_starts_as_the_reference_does():
    make = functools.partial(ChannelMix, d_mlp=80, n_layers=2)
    stack = Stack(24, ((functools.partial(Residual, mixer=make),),), 2, rngs=nnx.Rngs(0))
    channel = stack.layers[0].mixer
    for layer, power in enumerate((1.0, 0.5**3)):
        for mix in (channel.mix_k, channel.mix_r):
            wanted = 1 - (np.arange(24) / 24) ** power
            np.testing.assert_allclose(mix[...][layer], wanted, atol=1e-6)
    w = channel.k.kernel[...][1]
    np.testing.assert_allclose(w @ w.T, np.eye(24), atol=1e-5)
    np.testing.assert_array_equal(channel.v.kernel[...], 0)
    np.testing.assert_array_equal(channel.r.kernel[...], 0)


@pytest.mark.parametrize("name", [SMALL, CHANNEL])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_leaves_the_state_as_it_was(name, side):
    """A prompt of 5 between 3 places of padding with noise in them; a row all padding besides."""
    arrays, _, layer = _golden(name)
    x = jnp.asarray(arrays["x"][:, :8])
    place = slice(3, 8) if side == "left" else slice(0, 5)
    positions, segments = np.zeros((2, 2, 8), np.int32)
    positions[0, place], segments[0, place] = np.arange(5), 1
    before = jax.tree.map(lambda a: a + 1.0, layer.init_state(2, 8, jnp.float32))
    _, state = _run(layer, x, Seq(jnp.asarray(positions), jnp.asarray(segments)), before)
    fresh = layer.init_state(2, 8, jnp.float32)
    _, alone = _run(layer, x[:, place], _seq(5), fresh)
    for padded, wanted, old in zip(*map(jax.tree.leaves, (state, alone, before)), strict=True):
        np.testing.assert_allclose(padded[0], wanted[0], atol=1e-5)
        np.testing.assert_array_equal(padded[1], old[1])


def test_bfloat16_follows_float32_and_keeps_its_state_in_float32():
    arrays, _, layer = _golden(LARGE)
    x = jnp.asarray(arrays["x"], jnp.bfloat16)
    state = layer.init_state(1, 20, jnp.bfloat16)
    y, state = _run(layer, x, _seq(20), state)
    assert (y.dtype, state.shift.dtype, state.wkv.dtype) == (x.dtype, x.dtype, jnp.float32)
    exact, _ = _run(layer, x.astype(jnp.float32), _seq(20), layer.init_state(1, 20, jnp.float32))
    assert _off(y.astype(jnp.float32), exact) < 2e-2


def test_only_projections_decay_and_the_decay_base_learns_twice_as_fast():
    mixer = jax.eval_shape(lambda: TimeMix(16, n_heads=2, n_layers=2, rngs=nnx.Rngs(0)))
    shrunk = {name.split("/")[0] for name, on in named_arrays(decaying(mixer)).items() if on}
    assert shrunk == {"r", "k", "v", "g", "o"}
    faster = {name.split("/")[0]: r for name, r in named_arrays(rates(mixer)).items() if r != 1}
    assert faster == {"decay_base": 2.0}


def test_the_state_of_the_language_model_does_not_grow_with_the_text():
    base = bases.get("rwkv6")(vocab_size=8, d_model=16, n_heads=2, n_layers=2)
    model = jax.eval_shape(lambda: LM(base, rngs=nnx.Rngs(0)))
    sizes = [
        jax.tree.map(jnp.shape, jax.eval_shape(lambda n=n: model.init_state(3, n).layers))
        for n in (1, 4096)
    ]
    assert sizes[0] == sizes[1]
    assert base.mlp_features == 32
    assert bases.get("rwkv6")().mlp_features == 1792
