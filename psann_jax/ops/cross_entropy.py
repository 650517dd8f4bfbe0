"""Cross-entropy of a linear head, in chunks of tokens: the logits [B, T, V] are never whole.

The forward pass of a gradient also forms the gradients, so each chunk's logits are computed
once: three matrix products, as without chunks. Evaluation forms none: it computes loss and hits.

Each device walks over the chunks of its own rows, and sums over devices come after the walk:
inside of it, every chunk would send the kernel's gradient around once.
"""

import functools

import jax
import jax.numpy as jnp

from psann_jax.ops.matmul import rows_dot
from psann_jax.sharding import by_device, constrain

_CHUNK_BYTES = {"cpu": 2**23}  # of float32 logits: what stays in the cache
_DEFAULT_CHUNK_BYTES = 2**28


def linear_cross_entropy(
    x: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Sum over tokens of weight * cross-entropy of softmax(x @ kernel), in nats, [] float32.

    Args:
      x: [B, T, D] features after the last norm.
      kernel: [D, V].
      targets: [B, T] int32 in [0, V).
      weights: [B, T]; 0 leaves a token out. No gradient flows to them.
      label_smoothing: share of the target that is spread evenly over the vocabulary.
    """
    return _loss(x, kernel, targets, weights, label_smoothing)


def linear_scores(
    x: jax.Array, kernel: jax.Array, targets: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy in nats and top-1 hits of softmax(x @ kernel), weighted sums, [] float32.

    A hit is a target that argmax would give: of equal logits, that of the lowest index. Arguments
    as in `linear_cross_entropy`.
    """

    def of_chunk(*chunk):
        return _nats(*chunk, smoothing=0.0)[0], _hits(*chunk)

    return _summed(of_chunk, x, kernel, targets, weights)


def chunk_tokens(vocabulary: int, backend: str | None = None) -> int:
    """Tokens whose logits a device holds at once; None is the backend of this process."""
    budget = _CHUNK_BYTES.get(backend or jax.default_backend(), _DEFAULT_CHUNK_BYTES)
    return max(1, budget // (4 * vocabulary))


def _chunked(*arrays, vocabulary):
    """Arrays [B, T, ...] as [n, B, C, ...]: chunks of as many tokens as a device holds at once."""
    batch, length = arrays[-1].shape
    size = min(length, max(1, chunk_tokens(vocabulary) // batch))
    n = -(-length // size)
    size = -(-length // n)

    def cut(a):
        a = jnp.pad(a, ((0, 0), (0, n * size - length)) + ((0, 0),) * (a.ndim - 2))
        return jnp.moveaxis(a.reshape(batch, n, size, *a.shape[2:]), 1, 0)

    return tuple(map(cut, arrays))


def _nats(logits, targets, weights, smoothing):
    """Weighted loss of a chunk, and its log-normaliser: logits [B, C, V] float32."""
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    expected = (1 - smoothing) * _of_targets(logits, targets)[..., 0]
    if smoothing:
        expected = expected + smoothing * jnp.mean(logits, axis=-1)
    return jnp.sum(weights * (normaliser - expected)), normaliser


def _hits(logits, targets, weights):
    """Weighted number of a chunk's targets that argmax gives; argmax itself is slow on a CPU."""
    own = _of_targets(logits, targets)
    earlier = jnp.arange(logits.shape[-1]) < targets[..., None]
    ahead = ~(logits <= own) | ((logits == own) & earlier)  # nan is ahead, and has none behind
    return jnp.sum(weights * ~jnp.any(ahead, axis=-1))


def _of_targets(logits, targets):
    """The logits of the targets: [B, C, 1]."""
    return jnp.take_along_axis(logits, targets[..., None], axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _loss(x, kernel, targets, weights, smoothing):
    def of_chunk(*chunk):
        return _nats(*chunk, smoothing=smoothing)[0]

    return _summed(of_chunk, x, kernel, targets, weights)


def _summed(of_chunk, x, kernel, targets, weights):
    """The sums over all chunks of what `of_chunk(logits, targets, weights)` gives, each []."""
    table, vocabulary = _whole(kernel, x.dtype), kernel.shape[1]

    def of_rows(x, targets, weights):
        def body(chunk):
            x, targets, weights = chunk
            logits = jnp.dot(x, table, preferred_element_type=jnp.float32)
            return of_chunk(logits, targets, weights)

        return jax.lax.map(body, _chunked(x, targets, weights, vocabulary=vocabulary))

    sums = jax.vmap(of_rows)(*map(by_device, (x, targets, weights)))
    return jax.tree.map(jnp.sum, sums)


def _whole(kernel, dtype):
    """The kernel [D, V] as each device multiplies with it."""
    return constrain(kernel.astype(dtype), None, "vocab")


def _loss_fwd(x, kernel, targets, weights, smoothing):
    table, vocabulary = _whole(kernel, x.dtype), kernel.shape[1]
    dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def gradients(chunk):
        x, targets, weights = chunk
        logits = dot("bcd,dv->bcv", x, table)
        nats, normaliser = _nats(logits, targets, weights, smoothing)
        hit = targets[..., None] == jnp.arange(vocabulary)
        expected = (1 - smoothing) * hit + smoothing / vocabulary
        d_logits = weights[..., None] * (jnp.exp(logits - normaliser[..., None]) - expected)
        d_logits = d_logits.astype(x.dtype)
        dx = dot("bcv,dv->bcd", d_logits, table).astype(x.dtype)
        rows, d_logits = x.reshape(-1, x.shape[-1]), d_logits.reshape(-1, vocabulary)
        return (nats, rows_dot(rows, d_logits)), dx

    def body(total, chunk):
        part, dx = gradients(chunk)
        return jax.tree.map(jnp.add, total, part), dx

    def of_rows(x, targets, weights):
        chunks = _chunked(x, targets, weights, vocabulary=vocabulary)
        total, dx = gradients([c[0] for c in chunks])  # apart, so that no sum starts from zeros
        dx = dx[None]
        if len(chunks[0]) > 1:
            total, others = jax.lax.scan(body, total, [c[1:] for c in chunks])
            dx = jnp.concatenate([dx, others])
        return total, jnp.moveaxis(dx, 0, 1).reshape(x.shape[0], -1, x.shape[2])[:, : x.shape[1]]

    sums, dx = jax.vmap(of_rows)(*map(by_device, (x, targets, weights)))
    nats, d_kernel = jax.tree.map(lambda a: jnp.sum(a, axis=0), sums)
    return nats, (dx.reshape(x.shape), d_kernel.astype(kernel.dtype))


def _loss_bwd(smoothing, saved, g):
    dx, d_kernel = saved
    return (g * dx).astype(dx.dtype), (g * d_kernel).astype(d_kernel.dtype), None, None


_loss.defvjp(_loss_fwd, _loss_bwd)
