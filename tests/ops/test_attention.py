"""Blocked attention is the reference attention, without its T x T scores."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax.ops import attention as ops
from psann_jax.ops.alibi import slopes

B, H, K = 2, 3, 4
TOLERANCE = 2e-6  # float32 sums of up to 50 terms of order 1 in another order
SEGMENTS = {
    "whole": lambda t: None,
    "segments": lambda t: np.stack([np.arange(t) // 7 + 1, np.arange(t) // 11 + 1]),
    "padded": lambda t: np.stack(
        [np.where(np.arange(t) < t - 5, 1, 0), np.where(np.arange(t) < 3, 0, 2)]
    ),
}


def _qkv(length, dtype=jnp.float32, heads=H, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal((B, length, heads, K)), dtype) for _ in range(3)]


def _reference(q, k, v, segments, slopes_):
    index = jnp.arange(q.shape[1])[None]
    own = jnp.ones_like(index) if segments is None else jnp.asarray(segments)
    mask = ops.visible(own, own, index, index)
    bias = None if slopes_ is None else ops.alibi_bias(slopes_, index, index)
    return ops.masked_attention(q, k, v, mask, bias=bias)


def _blocked(q, k, v, segments, slopes_, block):
    q, k, v = (jnp.swapaxes(t, 1, 2) for t in (q, k, v))
    segments = None if segments is None else jnp.asarray(segments)
    return jnp.swapaxes(ops._blocked(q, k, v, segments, slopes_, block), 1, 2)


@pytest.mark.parametrize("alibi", [False, True], ids=["plain", "alibi"])
@pytest.mark.parametrize("segments", SEGMENTS)
@pytest.mark.parametrize(("length", "block"), [(8, 8), (20, 7)], ids=["one", "three"])
def test_blocked_equals_the_reference_in_value_and_gradients(length, block, segments, alibi):
    """One block, and blocks that do not divide the length."""
    _check_blocked(length, block, segments, alibi)


def test_seventeen_blocks_equal_the_reference_in_value_and_gradients():
    _check_blocked(17, 1, "segments", True)


def _check_blocked(length, block, segments, alibi):
    q, k, v = _qkv(length)
    where, penalties = SEGMENTS[segments](length), slopes(H) if alibi else None
    weights = jnp.asarray(np.random.default_rng(1).standard_normal(q.shape), jnp.float32)

    def value_and_gradients(function, *more):
        def loss(qkv):
            out = function(*qkv, where, penalties, *more)
            return jnp.sum(out * weights), out

        return jax.jit(jax.grad(loss, has_aux=True))((q, k, v))

    ours, theirs = value_and_gradients(_blocked, block), value_and_gradients(_reference)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=10 * TOLERANCE, rtol=1e-5)


def test_public_attention_equals_the_reference_beyond_one_block():
    q, k, v = _qkv(150)
    segments = jnp.asarray(SEGMENTS["segments"](150))
    ours = jax.jit(lambda *a: ops.attention(*a, segments=segments, slopes=slopes(H)))(q, k, v)
    np.testing.assert_allclose(ours, _reference(q, k, v, segments, slopes(H)), atol=TOLERANCE)


@pytest.mark.parametrize("start", [0, 9])
def test_no_gradient_crosses_segments(start):
    q, k, v = _qkv(18)
    segments = jnp.repeat(jnp.asarray([[1, 2]]), 9, axis=1).repeat(B, 0)
    inside = slice(start, start + 9)

    @jax.jit
    @jax.grad
    def gradients(qkv):
        return jnp.sum(ops.attention(*qkv, segments=segments)[:, inside] ** 2)

    for g in gradients((q, k, v)):
        np.testing.assert_array_equal(jnp.delete(g, jnp.arange(start, start + 9), axis=1), 0)
        assert np.abs(g[:, inside]).max() > 1e-3


def test_a_later_token_moves_nothing_before_it():
    q, k, v = _qkv(20)
    run = jax.jit(ops.attention)
    before, after = run(q, k, v), run(q, k.at[:, 13].add(1.0), v.at[:, 13].add(1.0))
    np.testing.assert_array_equal(before[:, :13], after[:, :13])
    assert np.all(before[:, 13:] != after[:, 13:])


def test_padding_rows_and_their_gradients_are_finite():
    q, k, v = _qkv(16)
    segments = jnp.zeros((B, 16), jnp.int32)

    @jax.jit
    def out_and_gradients(qkv):
        out, back = jax.vjp(lambda a: ops.attention(*a, segments=segments), qkv)
        return out, back(out)

    assert all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves(out_and_gradients((q, k, v))))


def test_alibi_is_exact_in_bfloat16_beyond_256_tokens():
    """Of equal keys the nearest weighs most: bfloat16 distances would tie 299 with 300."""
    length, penalty = 300, (1.0,)
    q, k, v = (jnp.zeros((1, length, 1, 2), jnp.bfloat16) for _ in range(3))
    v = v.at[:, -1].set(1.0)
    out = jax.jit(lambda *a: ops.attention(*a, slopes=penalty))(q, k, v)
    expected = 1 / np.sum(np.exp(-np.arange(length, dtype=np.float64)))
    # One rounding to 8 bits.
    np.testing.assert_allclose(float(out[0, -1, 0, 0]), expected, rtol=2**-8)


def test_bfloat16_attention_is_near_float32_attention():
    q, k, v = _qkv(64, jnp.bfloat16)
    ours = jax.jit(ops.attention)(q, k, v)
    exact = ops.attention(*(t.astype(jnp.float32) for t in (q, k, v)))
    assert ours.dtype == jnp.bfloat16
    # Queries, probabilities and outputs are each rounded to 8 bits.
    np.testing.assert_allclose(ours.astype(np.float32), exact, atol=4 * 2**-8)


@pytest.mark.parametrize("what", ["forward", "backward"])
def test_no_buffer_holds_all_scores(what):
    length = 2048
    shape = jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)

    def loss(q, k, v):
        return jnp.sum(ops.attention(q, k, v))

    function = loss if what == "forward" else jax.grad(loss, argnums=(0, 1, 2))
    text = jax.jit(function).lower(shape, shape, shape).compile().as_text()
    sizes = [
        int(np.prod([int(n) for n in dims.split(",")]))
        for dims in re.findall(r"\b(?:f32|bf16|pred|s32)\[([\d,]+)\]", text)
    ]
    assert max(sizes) <= length * length // 4, "a buffer grows with the square of the length"
