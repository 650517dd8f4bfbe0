"""The chunked loss of a linear head equals the loss of its full logits."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from psann_jax.ops import cross_entropy as ops

B, T, D, V = 2, 13, 6, 11
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((B, T, D)), jnp.float32)
KERNEL = jnp.asarray(RNG.standard_normal((D, V)), jnp.float32)
TARGETS = jnp.asarray(RNG.integers(0, V, (B, T)), jnp.int32)
WEIGHTS = jnp.asarray(RNG.choice([0.0, 1.0, 2.5], (B, T)), jnp.float32)
TOLERANCE = 2e-5  # float32 sums of 26 tokens of a few nats


def _full(x, kernel, targets, weights, label_smoothing=0.0):
    labels = optax.smooth_labels(jax.nn.one_hot(targets, kernel.shape[1]), label_smoothing)
    return jnp.sum(weights * optax.softmax_cross_entropy(x @ kernel, labels))


def _solved(function, x, kernel, targets, weights, smoothing=0.0):
    def loss(x, kernel):
        return function(x, kernel, targets, weights, label_smoothing=smoothing)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(x, kernel)


def _budget(monkeypatch, tokens):
    """Chunks of `tokens` positions of the batch."""
    monkeypatch.setitem(ops._CHUNK_BYTES, "cpu", 4 * V * B * tokens)


@pytest.mark.parametrize("tokens", [1, 4, 13, 1000], ids=lambda n: f"chunk{n}")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_equal_those_of_full_logits(monkeypatch, smoothing, tokens):
    _budget(monkeypatch, tokens)
    ours = _solved(ops.linear_cross_entropy, X, KERNEL, TARGETS, WEIGHTS, smoothing)
    theirs = _solved(_full, X, KERNEL, TARGETS, WEIGHTS, smoothing)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCE, rtol=1e-6)


@pytest.mark.parametrize("tokens", [1, 4, 13])
def test_loss_without_gradient_equals_the_loss_with_it(monkeypatch, tokens):
    _budget(monkeypatch, tokens)
    alone = jax.jit(lambda *a: ops.linear_cross_entropy(*a))(X, KERNEL, TARGETS, WEIGHTS)
    value, _ = _solved(ops.linear_cross_entropy, X, KERNEL, TARGETS, WEIGHTS)
    np.testing.assert_allclose(alone, value, rtol=1e-6)


@pytest.mark.parametrize("tokens", [1, 4, 13])
def test_scores_are_the_loss_and_the_targets_that_argmax_gives(monkeypatch, tokens):
    _budget(monkeypatch, tokens)
    likely = np.argmax(X @ KERNEL, -1)
    targets = jnp.where(jnp.arange(T) % 3 == 0, TARGETS, likely)
    nats, hits = jax.jit(ops.linear_scores)(X, KERNEL, targets, WEIGHTS)
    np.testing.assert_allclose(nats, _full(X, KERNEL, targets, WEIGHTS), rtol=1e-5)
    assert 0 < float(hits) < WEIGHTS.sum()
    assert float(hits) == np.sum(WEIGHTS * (likely == targets))


@pytest.mark.parametrize(("x", "hit"), [(0.0, True), (jnp.nan, False)], ids=["ties", "nan"])
def test_of_equal_logits_the_first_is_the_most_likely_and_nan_never_is(x, hit):
    targets = jnp.arange(B * T).reshape(B, T) % V
    _, hits = jax.jit(ops.linear_scores)(X * x, KERNEL, targets, jnp.ones((B, T)))
    assert float(hits) == (np.sum(targets == 0) if hit else 0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_equals_the_original(golden, smoothing):
    arrays = golden("aux_public").arrays
    logits, labels = arrays["sampling/logits"], arrays["ce/labels"]
    n, vocabulary = logits.shape
    loss = ops.linear_cross_entropy(
        jnp.asarray(logits)[None],
        jnp.eye(vocabulary),
        jnp.asarray(labels, jnp.int32)[None],
        jnp.ones((1, n)),
        label_smoothing=smoothing,
    )
    # The original is a float32 mean of three tokens.
    np.testing.assert_allclose(loss / n, arrays[f"ce/label_smoothing/{smoothing}"], rtol=1e-6)


def test_a_masked_token_gets_no_gradient():
    _, (dx, _) = _solved(ops.linear_cross_entropy, X, KERNEL, TARGETS, WEIGHTS)
    masked = np.asarray(WEIGHTS) == 0
    np.testing.assert_array_equal(dx[masked], 0)
    assert np.all(np.abs(dx[~masked]).max(-1) > 1e-3)


def test_a_masked_token_moves_nothing():
    masked = np.asarray(WEIGHTS) == 0
    other = jnp.where(masked[..., None], 7.0, X)
    _, (_, before) = _solved(ops.linear_cross_entropy, X, KERNEL, TARGETS, WEIGHTS)
    _, (_, after) = _solved(ops.linear_cross_entropy, other, KERNEL, TARGETS, WEIGHTS)
    np.testing.assert_array_equal(before, after)


def test_nothing_but_masked_tokens_give_zero():
    loss, gradients = _solved(ops.linear_cross_entropy, X, KERNEL, TARGETS, jnp.zeros((B, T)))
    assert float(loss) == 0.0
    for g in gradients:
        np.testing.assert_array_equal(g, 0)


def test_loss_is_finite_for_logits_that_overflow_exp():
    loss, gradients = _solved(ops.linear_cross_entropy, 1e3 * X, KERNEL, TARGETS, WEIGHTS)
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in gradients)


def test_gradients_scale_with_the_cotangent():
    def tripled(x, kernel):
        return 3 * ops.linear_cross_entropy(x, kernel, TARGETS, WEIGHTS)

    once = _solved(ops.linear_cross_entropy, X, KERNEL, TARGETS, WEIGHTS)[1]
    thrice = jax.grad(tripled, argnums=(0, 1))(X, KERNEL)
    for a, b in zip(thrice, once, strict=True):
        np.testing.assert_allclose(a, 3 * b, rtol=1e-5, atol=1e-6)


def test_bfloat16_features_keep_a_float32_loss_and_kernel_gradient():
    loss, (dx, dkernel) = _solved(
        ops.linear_cross_entropy, X.astype(jnp.bfloat16), KERNEL, TARGETS, WEIGHTS
    )
    exact = _full(X, KERNEL, TARGETS, WEIGHTS)
    assert (loss.dtype, dx.dtype, dkernel.dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)
    # Features and kernel are each rounded to 8 bits; the errors of 26 tokens mostly cancel.
    np.testing.assert_allclose(loss, exact, rtol=5e-3)


def test_evaluation_computes_no_gradient():
    """One matrix product with the kernel a chunk, where the gradient takes three."""

    def products(function):
        text = jax.jit(function).lower(X, KERNEL).as_text()
        return len(re.findall("dot_general", text))

    def loss(x, kernel):
        return ops.linear_cross_entropy(x, kernel, TARGETS, WEIGHTS)

    assert products(loss) == 1
    assert products(jax.grad(loss, argnums=(0, 1))) >= 3


def test_no_buffer_holds_all_logits(monkeypatch):
    monkeypatch.setitem(ops._CHUNK_BYTES, "cpu", 4 * 64 * 32)
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 256, 4), (4, 64), (2, 256))]
    x, kernel, weights = shapes
    targets = jax.ShapeDtypeStruct((2, 256), jnp.int32)
    function = jax.jit(jax.grad(ops.linear_cross_entropy, argnums=(0, 1)))
    text = function.lower(x, kernel, targets, weights).compile().as_text()
    sizes = [
        int(np.prod([int(n) for n in dims.split(",")]))
        for dims in re.findall(r"\b(?:f32|pred)\[([\d,]+)\]", text)
    ]
    assert max(sizes) < 2 * 256 * 64 // 4
