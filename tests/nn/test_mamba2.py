"""The Mamba-2 mixer: the reference's layer, in one pass and token by token."""

import functools
import json
from pathlib import Path

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax.interop.groundthink import mamba2_layer
from psann_jax.model import decaying
from psann_jax.nn.mamba2 import Mamba2, Mamba2Config
from psann_jax.seq import Seq

GOLDEN = Path(__file__).parents[1] / "golden" / "groundthink"
FILES = sorted(path.stem for path in GOLDEN.glob("mamba2_layer_*.npz"))


@functools.cache
def _golden(file):
    """The arrays of a layer's file, and what the manifest says of it."""
    with np.load(GOLDEN / f"{file}.npz") as arrays:
        case = dict(arrays)
    about = json.loads((GOLDEN / "manifest.json").read_text())["files"][f"{file}.npz"]
    return case, {n: a for n, a in case.items() if n.startswith("W/")}, about


@pytest.fixture(params=FILES)
def golden(request):
    return _golden(request.param)


def _far(ours, theirs):
    """The largest difference, relative to the largest number."""
    theirs = np.asarray(theirs, np.float64)
    return np.abs(np.asarray(ours, np.float64) - theirs).max() / np.abs(theirs).max()


def _places(batch, length):
    return Seq(jnp.broadcast_to(jnp.arange(length), (batch, length)))


@jax.jit
def _apply(layer, x, seq, state=None):
    return layer(x, seq, state)


def test_a_layer_computes_the_references_values(golden):
    case, weights, about = golden
    layer, x = mamba2_layer(weights, about), case["x"]
    start = layer.init_state(len(x), 0, jnp.float32)
    y, state = _apply(layer, x, _places(*x.shape[:2]), start)
    assert _far(y, case["y"]) < 5e-6
    assert _far(state.ssm, case["ssm_state"]) < 5e-6
    convolved = jnp.concatenate([state.x, state.bc], axis=2)
    assert _far(jnp.swapaxes(convolved, 1, 2), case["conv_state"]) < 5e-6
    alone, nothing = _apply(layer, x, _places(*x.shape[:2]))
    assert nothing is None
    assert _far(alone, case["y"]) < 5e-6


def test_a_layer_has_the_references_gradients(golden):
    case, weights, about = golden

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradients(weights, x):
        y, _ = mamba2_layer(weights, about)(x, _places(*x.shape[:2]))
        return jnp.sum(y * case["cot_y"])

    ours, of_x = gradients(weights, case["x"])
    far = {n: _far(g, case[n.replace("W/", "grad/")]) for n, g in ours.items()}
    far["x"] = _far(of_x, case["grad_x"])
    assert max(far.values()) < 1e-5, far


def test_token_by_token_is_the_parallel_form(golden):
    """With dt_limit too, which some published steps forget."""
    case, weights, about = golden
    layer, x = mamba2_layer(weights, about), case["x"]
    state, parts = layer.init_state(len(x), 0, jnp.float32), []
    for i in range(x.shape[1]):
        y, state = _apply(layer, x[:, i : i + 1], Seq(jnp.full((len(x), 1), i)), state)
        parts.append(y)
    assert _far(jnp.concatenate(parts, axis=1), case["y"]) < 5e-6
    assert _far(state.ssm, case["ssm_state"]) < 5e-6


def test_documents_in_a_row_are_the_references(golden):
    case, weights, about = golden
    layer, x, reset = mamba2_layer(weights, about), case["x"], case["reset"]
    steps = np.broadcast_to(np.arange(x.shape[1]), reset.shape)
    starts = np.maximum.accumulate(np.where(reset, steps, 0), axis=1)
    seq = Seq(jnp.asarray(steps - starts), jnp.asarray(1 + np.cumsum(reset, axis=1)))
    y, state = _apply(layer, x, seq, layer.init_state(len(x), 0, jnp.float32))
    assert _far(y, case["y_reset"]) < 5e-6
    assert _far(state.ssm, case["ssm_state_reset"]) < 5e-6
    assert _far(_apply(layer, x, seq)[0], case["y_reset"]) < 5e-6


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_carried_state(side):
    case, weights, about = _golden("mamba2_layer_g1")
    layer, x = mamba2_layer(weights, about), jnp.asarray(case["x"][:1, :7])
    start = layer.init_state(1, 0, jnp.float32)
    y, expected = _apply(layer, x, _places(1, 7), start)
    ahead, behind = (5, 0) if side == "left" else (0, 5)
    places = np.pad(np.arange(7), (ahead, behind))[None]
    segments = np.pad(np.ones(7, np.int32), (ahead, behind))[None]
    padded = jnp.pad(x, ((0, 0), (ahead, behind), (0, 0)), constant_values=9.0)
    z, state = _apply(layer, padded, Seq(jnp.asarray(places), jnp.asarray(segments)), start)
    assert _far(z[:, ahead : ahead + 7], y) < 5e-6
    for a, b in zip(state, expected, strict=True):
        assert _far(a, b) < 5e-6


def test_bfloat16_keeps_its_state_in_float32():
    case, weights, about = _golden("mamba2_layer_groundthink_dims")
    layer, x = mamba2_layer(weights, about), jnp.asarray(case["x"], jnp.bfloat16)
    y, state = _apply(layer, x, _places(*x.shape[:2]), layer.init_state(1, 0, x.dtype))
    assert (y.dtype, state.x.dtype, state.ssm.dtype) == (x.dtype, x.dtype, jnp.float32)
    assert _far(y, case["y"]) < 2e-2


@functools.cache
def _drawn():
    config = Mamba2Config(head_dim=4, n_groups=2, d_state=8)
    return Mamba2(64, config=config, n_layers=3, rngs=nnx.Rngs(0))


def test_parameters_start_in_the_papers_ranges():
    layer = _drawn()
    dt = np.asarray(jax.nn.softplus(layer.dt_bias[...]))
    assert 1e-3 * 0.99 < dt.min() < 5e-3
    assert 0.02 < dt.max() < 0.1 * 1.01
    A = np.exp(layer.A_log[...])
    assert 1 <= A.min() < 4
    assert 12 < A.max() <= 16.001
    np.testing.assert_array_equal(layer.D[...], 1)
    np.testing.assert_array_equal(layer.norm.scale[...], 1)
    limits = {"x": 64**-0.5, "dt": 64**-0.5, "out": 128**-0.5 / 6**0.5}  # two residuals a layer
    for name, limit in limits.items():
        largest = np.abs(getattr(layer, name).kernel[...]).max()
        assert 0.97 * limit < largest <= limit * 1.0001, name
    assert 0.45 < np.abs(layer.conv_x.taps[...]).max() <= 0.5


def test_weight_decay_leaves_the_recurrences_numbers_alone():
    mask = decaying(_drawn())
    for name in ("dt_bias", "A_log", "D"):
        assert jax.tree.leaves(getattr(mask, name)) == [False]
    assert jax.tree.leaves(mask.norm) == [False]
    assert jax.tree.leaves(mask.out) == [True]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"d_state": 0}, "base.mamba.d_state=0 must be a positive"),
        ({"head_dim": 48}, r"head_dim=48 does not divide .* 2 \* 32 = 64; head_dim=32 does"),
        ({"head_dim": 16, "n_groups": 3}, "n_groups=3 does not divide the 4 heads"),
        ({"dt_limit": (0.1, 0.01)}, r"dt_limit=\(0.1, 0.01\) must be two rising numbers"),
        ({"dt_limit": (0.0,)}, r"dt_limit=\(0.0,\) must be two rising .*\(0.0, None\) limits"),
        ({"dt_limit": 0.1}, "dt_limit=0.1 must be two rising numbers"),
        ({"d_state": 2.5}, "d_state=2.5 must be a positive whole number, as 64"),
        ({"n_groups": None}, "n_groups=None must be a positive whole number, as 1"),
        ({"norm_eps": 0.0}, "base.mamba.norm_eps=0.0 must be positive"),
    ],
)
def test_a_bad_size_is_named_with_a_way_out(fields, said):
    with pytest.raises(ValueError, match=said):
        Mamba2(32, config=Mamba2Config(**fields), n_layers=1, rngs=nnx.Rngs(0))


def test_biases_of_projections_start_uniform_by_their_inputs():
    layer = Mamba2(32, config=Mamba2Config(head_dim=4, bias=True), n_layers=4, rngs=nnx.Rngs(0))
    for part, inputs in ((layer.z, 32), (layer.bc, 32), (layer.dt, 32), (layer.out, 64)):
        spread = np.abs(part.bias[...]).max() * inputs**0.5
        assert 0.5 < spread <= 1.0
