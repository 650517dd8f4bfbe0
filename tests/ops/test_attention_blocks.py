"""Blocked attention is the reference attention, in memory linear in the length."""

import functools
from functools import partial
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax.nn.dropout import dropout
from psann_jax.ops import attention as ops
from psann_jax.ops import attention_blocks
from psann_jax.ops.alibi import slopes
from psann_jax.ops.attention_blocks import How, blocked_attention

B, H, K = 2, 3, 4
TOLERANCE = 2e-5  # float32 sums of up to 50 terms of order 1 in another order
SEGMENTS = {
    "whole": lambda t: np.ones((B, t), np.int32),
    "segments": lambda t: np.stack([np.arange(t) // 7 + 1, np.arange(t) // 11 + 1]),
    "padded": lambda t: np.stack(
        [np.where(np.arange(t) < t - 5, 1, 0), np.where(np.arange(t) < 3, 0, 2)]
    ),
}
# Lengths, blocks and spans: one block; three that do not divide the length; loops over such.
SIZES = {"one": (8, 8, 1), "three": (20, 7, 1), "looped": (50, 3, 2)}


def _qkv(length, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal((B, length, H, K)), dtype) for _ in range(3)]


def _same(ours, theirs, length):
    """The same output and gradients of q, k, v, given functions of them."""
    qkv = _qkv(length)
    weights = jnp.asarray(np.random.default_rng(1).standard_normal(qkv[0].shape), jnp.float32)

    def both(function):
        out, back = jax.vjp(function, *qkv)
        return out, *back(weights)

    ours, theirs = (jax.jit(functools.partial(both, f))() for f in (ours, theirs))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCE, rtol=1e-5)


def _reference(q, k, v, segments, penalties, **more):
    index = jnp.arange(q.shape[1])[None]
    mask = ops.visible(segments, segments, index, index)
    bias = None if penalties is None else ops.alibi_bias(penalties, index, index)
    return ops.masked_attention(q, k, v, mask, bias=bias, **more)


@pytest.mark.parametrize(("segments", "alibi"), [("whole", False), ("padded", True)])
@pytest.mark.parametrize("size", SIZES)
def test_blocks_equal_the_reference_in_value_and_gradients(size, segments, alibi):
    length, block, spans = SIZES[size]
    where, penalties = jnp.asarray(SEGMENTS[segments](length)), slopes(H) if alibi else None

    def ours(q, k, v):
        own = None if segments == "whole" else where
        return blocked_attention(q, k, v, own, how=How(penalties, None, block, spans))

    _same(ours, lambda *qkv: _reference(*qkv, where, penalties), length)


@pytest.mark.parametrize("size", ["three", "looped"])
def test_dropped_blocks_equal_the_reference_with_the_same_drops(size):
    length, block, spans = SIZES[size]
    drop, key = partial(dropout, rate=0.4), jax.random.key(3)
    where, how = jnp.asarray(SEGMENTS["segments"](length)), How(None, drop, block, spans)
    whole = -(-length // block) * block if size == "looped" else length
    factors = np.zeros((B, H, whole, whole), np.float32)  # 0 or 1 / 0.6
    for starts, n, end in attention_blocks._spans(whole, how):
        for start in starts:
            now = slice(start, min(start + n, end))
            ones = jnp.ones((B, H, now.stop - start, end))
            factors[:, :, now, :end] = drop(ones, key=jax.random.fold_in(key, start))
    reference = partial(_reference, drop=lambda p: p * factors[:, :, :length, :length])
    ours = partial(blocked_attention, segments=where, key=key, how=how)
    _same(ours, lambda *qkv: reference(*qkv, where, None), length)


def test_the_default_block_equals_the_reference_beyond_one_block():
    q, k, v = _qkv(150)
    segments = jnp.asarray(SEGMENTS["segments"](150))
    run = partial(ops.attention, segments=segments, slopes=slopes(H), backend="blocks")
    expected = _reference(q, k, v, segments, slopes(H))
    np.testing.assert_allclose(jax.jit(run)(q, k, v), expected, atol=TOLERANCE)


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
    ours = jax.jit(partial(ops.attention, backend="blocks"))(q, k, v)
    exact = ops.attention(*(t.astype(jnp.float32) for t in (q, k, v)))
    assert ours.dtype == jnp.bfloat16
    # Queries, probabilities and outputs are each rounded to 8 bits.
    np.testing.assert_allclose(ours.astype(np.float32), exact, atol=4 * 2**-8)


@functools.cache
def _lowered(length, rate=0.0):
    """Both passes with ALiBi and segments, and dropout if there is a rate."""
    shape = jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)
    segments = jax.ShapeDtypeStruct((1, length), jnp.int32)
    how = How((0.5,), partial(dropout, rate=rate) if rate else None)

    def loss(qkv, segments):
        return jnp.sum(blocked_attention(*qkv, segments, jax.random.key(0), how=how) ** 2)

    return jax.jit(jax.value_and_grad(loss)).lower((shape,) * 3, segments)


@functools.cache
def _compiled(length):
    return _lowered(length).compile()


def _no_pairs(shapes, length):
    """Not [T, T], and no other array of many rows of T."""
    assert max(len(s) for s in shapes) > 2
    assert not [s for s in shapes if sum(n >= length for n in s) > 1]
    assert max(np.prod(s) for s in shapes) <= length * length // 4


@pytest.mark.parametrize("length", [1024, 4096])
def test_no_buffer_holds_all_pairs_of_tokens(length):
    found = re.findall(r"\b\w+\[([\d,]+)\]", _compiled(length).as_text())
    _no_pairs([[int(n) for n in dims.split(",")] for dims in found], length)


def test_nothing_is_drawn_for_all_pairs_of_tokens():
    found = re.findall(r"tensor<([\dx]+)x\w+>", _lowered(1024, rate=0.1).as_text())
    _no_pairs([[int(n) for n in dims.split("x")] for dims in found], 1024)


def test_memory_is_linear_in_the_length():
    short, long = (_compiled(n).memory_analysis().temp_size_in_bytes for n in (4096, 16384))
    assert long < 4.1 * short


def test_a_long_row_is_no_longer_a_program():
    short, long = (len(_lowered(n).as_text().splitlines()) for n in (4096, 16384))
    assert long == short
