"""SSD: the reference's values and gradients in all forms, blind across resets."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax.ops import ssd as module
from psann_jax.ops.ssd import ssd, ssd_sequential

GOLDEN = Path(__file__).parents[1] / "golden" / "groundthink"
NAMES = ("x", "dt", "A", "B", "C", "D", "h0")
FILES = sorted(path.stem for path in GOLDEN.glob("ssd_op_*.npz"))
FORMS = {
    "sequential": ssd_sequential,
    "chunks of 16": lambda *a: ssd(*a, chunk=16),
    "one chunk": ssd,
}


@pytest.fixture(autouse=True)
def _size_of_real_use(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 64)


def _far(ours, theirs):
    """The largest difference, relative to the largest number."""
    theirs = np.asarray(theirs, np.float64)
    return np.abs(np.asarray(ours, np.float64) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("file", FILES)
def test_values_and_gradients_are_the_references(file, form):
    with np.load(GOLDEN / f"{file}.npz") as golden:
        case = dict(golden)
    reset = jnp.asarray(case["reset"]) if case["reset"].any() else None

    @jax.jit
    def run(inputs, cotangents):
        value, vjp = jax.vjp(lambda *inputs: FORMS[form](*inputs, reset), *inputs)
        return value, vjp(cotangents)

    inputs, cotangents = [case[name] for name in NAMES], (case["cot_y"], case["cot_state"])
    (y, state), gradients = run(inputs, cotangents)
    assert _far(y, case["y"]) < 2e-6
    assert _far(state, case["state"]) < 2e-6
    far = {n: _far(g, case[f"grad_{n}"]) for n, g in zip(NAMES, gradients, strict=True)}
    assert max(far.values()) < 1e-5, far


def _data(seed, length, heads=4, groups=2, dtype=np.float32, strength=0.0):
    """Arguments of `ssd`; decays a token are around exp(-softplus(strength))."""
    rng = np.random.default_rng(seed)
    x, B, C = (
        jnp.asarray(rng.standard_normal((2, length, *shape)), dtype)
        for shape in ((heads, 8), (groups, 4), (groups, 4))
    )
    dt = jax.nn.softplus(jnp.asarray(rng.standard_normal((2, length, heads)) + strength, "f"))
    A, D = -jnp.exp(rng.standard_normal(heads).astype("f")), jnp.ones((heads,))
    return (x, dt, A, B, C, D), jnp.asarray(rng.standard_normal((2, heads, 8, 4)), jnp.float32)


@pytest.mark.parametrize(
    ("length", "chunk", "budget"),
    [(2, 64, 0), (9, 1, 2**5), (13, 8, 0), (29, 8, 2**12), (29, 3, 2**9), (29, 29, 0)],
)
def test_all_chunk_sizes_and_numbers_of_them_at_once_agree(length, chunk, budget, monkeypatch):
    args, state = _data(length, length)
    reset = jnp.asarray(np.random.default_rng(0).random((2, length)) < 0.2)
    monkeypatch.setitem(module._BLOCK_BYTES, "cpu", budget)
    ours = jax.jit(lambda *a: ssd(*a, chunk=chunk))(*args, state, reset)
    for a, b in zip(ours, jax.jit(ssd_sequential)(*args, state, reset), strict=True):
        assert _far(a, b) < 2e-6


@pytest.mark.parametrize("cut", [1, 6, 8, 19])
def test_a_state_carried_over_a_cut_changes_nothing(cut):
    args, state = _data(0, 20)
    whole, end = jax.jit(lambda *a: ssd(*a, chunk=8))(*args, state)
    per_token, (A, D) = [0, 1, 3, 4], (args[2], args[5])
    parts = []
    for where in (slice(None, cut), slice(cut, None)):
        x, dt, B, C = (args[i][:, where] for i in per_token)
        y, state = ssd(x, dt, A, B, C, D, state, chunk=8)
        parts.append(y)
    assert _far(jnp.concatenate(parts, axis=1), whole) < 2e-6
    assert _far(state, end) < 2e-6


@functools.partial(jax.jit, static_argnums=0)
def _value_and_gradients(run, *inputs):
    value, vjp = jax.vjp(run, *inputs)
    return value, vjp(jax.tree.map(jnp.ones_like, value))


def test_what_comes_before_a_reset_matters_to_nothing_after_it():
    """In value, bit by bit, and with gradients that are exactly zero."""
    args, state = _data(0, 20)
    reset = jnp.zeros((2, 20), bool).at[:, 11].set(True)

    def after(early, state):
        x, dt, A, B, C, D = args
        x, dt, B, C = (
            jnp.concatenate([e, a[:, 11:]], axis=1)
            for e, a in zip(early, (x, dt, B, C), strict=True)
        )
        y, end = ssd(x, dt, A, B, C, D, state, reset, chunk=8)
        return y[:, 11:], end

    early = tuple(args[i][:, :11] for i in (0, 1, 3, 4))
    value, gradients = _value_and_gradients(after, early, state)
    other, _ = _value_and_gradients(after, jax.tree.map(lambda a: 50 * a + 3, early), state - 7)
    jax.tree.map(np.testing.assert_array_equal, value, other)
    for gradient in jax.tree.leaves(gradients):
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("strength", [-30.0, 30.0, 9000.0])
def test_extreme_decays_have_finite_values_and_gradients(strength):
    args, state = _data(0, 20, strength=strength)
    reset = jnp.zeros((2, 20), bool).at[:, 3].set(True)
    run = lambda *a: ssd(*a, reset, chunk=8)  # noqa: E731
    value, gradients = _value_and_gradients(run, *args, state)
    expected = jax.jit(ssd_sequential)(*args, state, reset)
    assert _far(value[0], expected[0]) < 2e-6
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_one_strong_decay_spoils_no_later_gradient():
    """Differences of sums past a decay of exp(-8000) would have errors of 1e-3."""
    (x, dt, A, B, C, D), state = _data(0, 32, strength=-3.0)
    dt = dt.at[:, 2].set(8000.0)

    def gradient(form):
        late = lambda dt: jnp.sum(form(x, dt, A, B, C, D, state)[0][:, 8:] ** 2)  # noqa: E731
        return jax.jit(jax.grad(late))(dt)[:, 8:]

    assert _far(gradient(ssd), gradient(ssd_sequential)) < 1e-5


def test_tokens_without_a_time_step_leave_the_state_as_it_was():
    args, state = _data(0, 20)
    dt = args[1].at[:, 7:].set(0)
    _, end = ssd(args[0], dt, *args[2:], state, chunk=8)
    x, _, A, B, C, D = args
    _, expected = ssd(x[:, :7], dt[:, :7], A, B[:, :7], C[:, :7], D, state, chunk=8)
    assert _far(end, expected) < 1e-6


def test_bfloat16_sums_in_float32():
    args, state = _data(0, 96, dtype=jnp.bfloat16)
    y, end = ssd(*args, state, chunk=32)
    assert y.dtype == jnp.bfloat16
    assert end.dtype == jnp.float32
    expected, last = ssd_sequential(*(a.astype(jnp.float32) for a in args), state)
    assert _far(y, expected) < 1e-2
    assert _far(end, last) < 1e-2


def test_heads_that_no_groups_fill_are_refused():
    with pytest.raises(ValueError, match="4 heads are not a multiple of 3 groups"):
        ssd(*_data(0, 8, groups=3)[0])


def test_a_token_that_forgets_all_is_no_nan():
    """dt * A is minus infinity at one token: as after a reset, and finite in every gradient."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (1, 20, 1, 4))
    b, c = (jax.random.normal(key, (1, 20, 1, 4)) for key in keys[1:])
    dt, a, d = jnp.full((1, 20, 1), 0.1).at[0, 7].set(1e20), jnp.array([-1e20]), jnp.ones((1,))
    y, state = ssd(x, dt, a, b, c, d)
    expected, last = ssd_sequential(x, dt, a, b, c, d)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(state, last, rtol=1e-5, atol=1e-5)
    gradient = jax.grad(lambda x: jnp.sum(ssd(x, dt, a, b, c, d)[0][:, :7] ** 2))(x)
    assert np.isfinite(gradient).all()
