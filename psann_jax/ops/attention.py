"""Causal attention within segments: one name for all ways to compute it, the plain reference too.

  blocks  plain JAX, exact for every case on every device (attention_blocks.py)
  cudnn   NVIDIA's flash kernel, for rows of one document each (attention_gpu.py)
  pallas  jax's flash kernel for NVIDIA GPUs, for packed rows (attention_gpu.py)
  auto    the first of cudnn, pallas, blocks that is exact for the case

Rows with segments, as all of training has them, never go to cuDNN, though it would be exact for a
batch whose rows turn out to hold one document each: of packed rows hardly any batch does, and a
choice made as the program runs saves for the backward pass what both ways save.

The environment variable PSANN_JAX_ATTENTION names the way for a whole process; it is read here
alone, when a function is traced, so set it before the first call.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np

from psann_jax.ops.attention_blocks import MASKED, Drop, How, blocked_attention, scale
from psann_jax.ops.attention_gpu import (
    cudnn_attention,
    cudnn_refusal,
    pallas_attention,
    pallas_refusal,
)

BACKENDS = ("auto", "blocks", "cudnn", "pallas")


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    segments: jax.Array | None = None,
    slopes: tuple[float, ...] | None = None,
    drop: Drop | None = None,
    key: jax.Array | None = None,
    backend: str | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(K) - slope * distance) v over the tokens a token may see.

    Args:
      q, k, v: [B, T, H, K].
      segments: [B, T]; a token sees earlier tokens of its own segment (None: all earlier).
      slopes: the ALiBi slope of each head, or None.
      drop: drop(probabilities, key=...), linear in any block of probabilities [B, H, N, S].
      key: what the key of each block is folded from.
      backend: one of BACKENDS; None is what PSANN_JAX_ATTENTION says, or else auto.

    Returns:
      [B, T, H, K] in q's dtype; scores and softmax are float32.

    Raises:
      ValueError: the backend is none of BACKENDS, or cannot compute this case.
    """
    match _chosen(backend, (q, segments, slopes, drop)):
        case "cudnn":
            return cudnn_attention(q, k, v)
        case "pallas":
            return pallas_attention(q, k, v, segments)
        case _:
            return blocked_attention(q, k, v, segments, key, how=How(slopes, drop))


def _chosen(backend: str | None, case: tuple) -> str:
    name = backend or os.environ.get("PSANN_JAX_ATTENTION") or "auto"
    if name not in BACKENDS:
        raise ValueError(f"attention backend {name!r} is none of {', '.join(BACKENDS)}")
    refusals = {"cudnn": cudnn_refusal, "pallas": pallas_refusal}
    if name == "auto":
        return next((n for n, refusal in refusals.items() if refusal(*case) is None), "blocks")
    reason = refusals[name](*case) if name in refusals else None
    if reason is not None:
        raise ValueError(f"attention backend {name}: {reason}; auto takes one that fits")
    return name


def visible(
    q_segments: jax.Array, k_segments: jax.Array, q_index: jax.Array, k_index: jax.Array
) -> jax.Array:
    """Which keys a query sees, [B, T, S]: its own segment's, not after it. All [B, T], [B, S]."""
    same = q_segments[:, :, None] == k_segments[:, None, :]
    return same & (k_index[:, None, :] <= q_index[:, :, None])


def masked_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    *,
    bias: jax.Array | None = None,
    drop=lambda probabilities: probabilities,
) -> jax.Array:
    """Attention over any mask [B, T, S], as its formula reads: the reference.

    Args:
      q: [B, T, H, K].
      k, v: [B, S, H, K].
      bias: [B, H, T, S] added to the scaled scores, or None.
      drop: applied to the probabilities [B, H, T, S].
    """
    k, v = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
    return cached_attention(q, k, v, mask, bias=bias, drop=drop)


def cached_attention(q, k, v, mask, *, bias=None, drop=lambda probabilities: probabilities):
    """`masked_attention` for the decoder: k, v [B, H, S, K], as its products read them."""
    scores = jnp.einsum("bthk,bhsk->bhts", q, k, preferred_element_type=jnp.float32)
    scores = scores * scale(q)
    if bias is not None:
        scores = scores + bias
    probabilities = jax.nn.softmax(jnp.where(mask[:, None], scores, MASKED), axis=-1)
    return jnp.einsum("bhts,bhsk->bthk", drop(probabilities).astype(q.dtype), v)


def alibi_bias(slopes: tuple[float, ...], q_index: jax.Array, k_index: jax.Array) -> jax.Array:
    """-slope * max(distance, 0) in float32: [B, T], [B, S] -> [B, H, T, S]."""
    distance = jnp.maximum(q_index[:, :, None] - k_index[:, None, :], 0).astype(jnp.float32)
    return distance[:, None] * -np.asarray(slopes, np.float32)[:, None, None]
