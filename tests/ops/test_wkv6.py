"""WKV of RWKV-6: the chunked form is the recurrence, whatever the decays, splits and resets."""

from functools import partial
import itertools
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax.ops import wkv6 as module
from psann_jax.ops.wkv6 import wkv6, wkv6_sequential

GOLDEN = Path(__file__).parents[1] / "golden" / "groundthink"
FILES = sorted(p.stem for p in GOLDEN.glob("wkv6_op_*.npz"))
NAMES = ("r", "k", "v", "ww", "u", "s0")
DECAYS = {  # ranges of ww, log_decay = -exp(ww)
    "init": (-6, -1),
    "strong": (2, 5),
    "mixed": (-20, 9),
    "weak": (-18, -10),
    "extreme": (60, 88),
}


@pytest.fixture(autouse=True)
def _sizes_of_real_use(monkeypatch):
    monkeypatch.setitem(module._SIZES, "cpu", (32, 32))


def _off(value, wanted):
    """The largest difference as a share of the largest value."""
    return np.max(np.abs(np.asarray(value, np.float64) - wanted)) / np.max(np.abs(wanted))


@partial(jax.jit, static_argnames=("form",))
def _run(inputs, reset=None, *, form=wkv6):
    r, k, v, ww, u, s0 = inputs
    return form(r, k, v, -jnp.exp(ww), u, s0, reset)


@partial(jax.jit, static_argnames=("form",))
def _gradients(inputs, reset, cot_y, cot_state, *, form=wkv6):
    """Those of a loss with these cotangents, and y and the state."""

    def loss(inputs):
        y, state = _run(inputs, reset, form=form)
        return jnp.sum(y * cot_y) + jnp.sum(state * cot_state), (y, state)

    return jax.grad(loss, has_aux=True)(inputs)


@pytest.mark.parametrize("form", [wkv6, wkv6_sequential], ids=["chunked", "sequential"])
@pytest.mark.parametrize("name", FILES)
def test_it_equals_the_float64_recurrence_in_value_and_gradient(name, form):
    with np.load(GOLDEN / f"{name}.npz") as file:
        golden = dict(file)
    inputs, reset = tuple(golden[n] for n in NAMES), golden["reset"]
    cotangents = golden["cot_y"], golden["cot_state"]
    gradients, (y, state) = _gradients(inputs, reset, *cotangents, form=form)
    assert _off(y, golden["y"]) < 2e-6
    assert _off(state, golden["state"]) < 2e-6
    wanted = [golden[f"grad_{n}"] for n in NAMES]
    largest = max(np.abs(g).max() for g in wanted)
    for n, gradient, true in zip(NAMES, gradients, wanted, strict=True):
        error = np.abs(np.asarray(gradient, np.float64) - true).max()
        # Strong decays leave a gradient of ww so small that only the others measure it.
        bound = 1e-6 * largest if n == "ww" else 1e-5 * np.abs(true).max()
        assert error <= bound, (n, error, bound)


def _data(seed, decay="init", shape=(2, 37, 2), sizes=(8, 12)):
    """r, k, v, ww, u and a state."""
    rng, (key, value) = np.random.default_rng(seed), sizes

    def normal(*shape):
        return rng.standard_normal(shape).astype("f")

    ww = rng.uniform(*DECAYS[decay], (*shape, key)).astype("f")
    batch, _, heads = shape
    state = normal(batch, heads, key, value)
    return (
        normal(*shape, key),
        normal(*shape, key),
        normal(*shape, value),
        ww,
        normal(heads, key),
        state,
    )


def _part(inputs, state, start, end):
    return (*(a[:, start:end] for a in inputs[:4]), inputs[4], state)


@pytest.mark.parametrize(
    ("decay", "sizes"), [*((decay, (64, 256)) for decay in DECAYS), ("mixed", (32, 32))]
)
def test_long_rows_equal_the_recurrence_at_every_decay(decay, sizes, monkeypatch):
    """Two groups of three chunks each, or groups of one chunk."""
    monkeypatch.setitem(module._SIZES, "cpu", sizes)
    inputs = _data(0, decay, (1, 330, 2), (16, 16))
    cot_y, cot_state = _data(1, shape=(1, 330, 2), sizes=(16, 16))[2::3]
    forms = partial(wkv6), wkv6_sequential  # a new function, traced with these sizes
    forms = [_gradients(inputs, None, cot_y, cot_state, form=f) for f in forms]
    gradients, values = zip(*forms, strict=True)
    for chunked, plain in zip(*values, strict=True):
        assert _off(chunked, plain) < 2e-6
    largest = max(np.abs(g).max() for g in gradients[1])
    for chunked, plain in zip(*gradients, strict=True):
        assert np.all(np.isfinite(chunked))
        np.testing.assert_allclose(chunked, plain, atol=2e-6 * largest, rtol=0)


def test_a_decay_of_minus_infinity_forgets_all():
    r, k, v, _, u, s0 = _data(0)

    @jax.jit
    def both(log_decay):
        y, back = jax.vjp(lambda g: wkv6(r, k, v, g, u, s0)[0], log_decay)
        return y, back(jnp.ones_like(y))[0]

    y, gradient = both(jnp.full(k.shape, -jnp.inf))
    own = np.einsum("bthk,hk,bthk->bth", r, u, k)[..., None] * v
    last = np.einsum("bthk,bthk->bth", r[:, 1:], k[:, :-1])[..., None] * v[:, :-1]
    np.testing.assert_allclose(y[:, 1:], own[:, 1:] + last, atol=1e-5)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("chunk", [1, 2, 16, 128])
def test_chunks_of_any_size_agree(chunk):
    inputs = _data(2, "mixed")
    reset = np.random.default_rng(2).random((2, 37)) < 0.1
    for a, b in zip(
        _run(inputs, reset, form=partial(wkv6, chunk=chunk)), _run(inputs, reset), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


@given(st.sampled_from(["init", "mixed"]), st.integers(0, 3), st.sampled_from([1, 15, 16, 36]))
@settings(max_examples=12)
def test_a_row_split_anywhere_goes_on_where_it_was(decay, seed, cut):
    inputs = _data(seed, decay)
    y, state = _run(inputs)
    first, between = _run(_part(inputs, inputs[-1], 0, cut))
    second, end = _run(_part(inputs, between, cut, 37))
    np.testing.assert_allclose(np.concatenate([first, second], 1), y, atol=2e-5)
    np.testing.assert_allclose(end, state, atol=2e-5)


def test_tokens_one_by_one_equal_the_whole_row():
    inputs = _data(4)
    state, outputs = inputs[-1], []
    for t in range(37):
        y, state = _run(_part(inputs, state, t, t + 1))
        outputs.append(y)
    y, end = _run(inputs)
    np.testing.assert_allclose(np.concatenate(outputs, 1), y, atol=2e-5)
    np.testing.assert_allclose(state, end, atol=2e-5)


@pytest.mark.parametrize("decay", ["weak", "mixed"])
def test_documents_between_resets_equal_separate_runs(decay):
    """Resets at a row's start, side by side, and one token before a chunk's border."""
    inputs, starts = _data(5, decay, (2, 80, 2)), (0, 5, 6, 31, 63, 80)
    reset = np.zeros((2, 80), bool)
    reset[:, list(starts[:-1])] = True
    y, state = _run(inputs, reset)
    zeros = np.zeros_like(inputs[-1])
    for start, end in itertools.pairwise(starts):
        alone, last = _run(_part(inputs, zeros, start, end), form=wkv6_sequential)
        np.testing.assert_allclose(y[:, start:end], alone, atol=2e-5)
    np.testing.assert_allclose(state, last, atol=2e-5)


@pytest.mark.parametrize("form", [wkv6, wkv6_sequential], ids=["chunked", "sequential"])
def test_nothing_before_a_reset_has_a_gradient_from_behind_it(form):
    inputs = _data(6, "weak")
    reset, cot_y = np.zeros((2, 37), bool), np.zeros((2, 37, 2, 12), "f")
    reset[:, 17] = True
    cot_y[:, 17:] = 1
    gradients, _ = _gradients(inputs, reset, cot_y, np.ones_like(inputs[-1]), form=form)
    for gradient in gradients[:4]:
        np.testing.assert_array_equal(gradient[:, :17], 0)
        assert np.all(np.isfinite(gradient))
    np.testing.assert_array_equal(gradients[5], 0)


def test_bfloat16_inputs_are_summed_in_float32():
    r, k, v, ww, u, s0 = _data(7, shape=(2, 128, 2), sizes=(16, 16))
    low = [jnp.asarray(a, jnp.bfloat16) for a in (r, k, v)]
    y, state = _run((*low, ww, u, s0))
    assert y.dtype == jnp.bfloat16
    assert state.dtype == jnp.float32
    rounded = [np.asarray(a, np.float32) for a in low]
    for value, wanted in zip((y, state), _run((*rounded, ww, u, s0)), strict=True):
        assert _off(value.astype(jnp.float32), wanted) < 1e-2  # y itself is rounded
    assert _off(state, _run((r, k, v, ww, u, s0))[1]) < 2e-2


@pytest.mark.parametrize("chunk", [1, 3, 48])
def test_any_chunk_gives_the_same(chunk):
    r, k, v = jax.random.normal(jax.random.key(0), (3, 1, 50, 1, 4))
    log_decay, u = -jnp.exp(jax.random.normal(jax.random.key(1), r.shape)), jnp.ones((1, 4))
    y, state = wkv6(r, k, v, log_decay, u, chunk=chunk)
    expected, last = wkv6_sequential(r, k, v, log_decay, u)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_allclose(state, last, atol=1e-5)


def test_a_chunk_of_nothing_is_refused():
    r = jnp.zeros((1, 4, 1, 2))
    with pytest.raises(ValueError, match="chunk=0 and T=4 must be at least 1"):
        wkv6(r, r, r, r, jnp.zeros((1, 2)), chunk=0)
