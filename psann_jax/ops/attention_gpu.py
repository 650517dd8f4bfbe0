"""Causal attention by fused GPU kernels, and why each does not fit a case.

cuDNN's flash kernel is the fastest, but through jax's public functions it knows nothing of
segments: it fits rows that are one document each. jax's Pallas kernel compares segments inside
the kernel, block by block, so it fits packed rows; it goes through Triton, which jax 0.11 calls
deprecated, and where a later jax has it no more, it refuses. Neither subtracts ALiBi's penalties,
drops probabilities or computes in float32.
Source: jax.nn.dot_product_attention; jax.experimental.pallas.ops.gpu.attention.
"""

from collections.abc import Callable, Container
import functools

import jax
import jax.numpy as jnp

from psann_jax.sharding import constrain, distributed, divides, spec

_AXES = ("batch", "length", "heads", None)
_TILE = 64  # queries and keys of a Pallas block in both passes, as jax's own tests have them


def cudnn_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """[B, T, H, K] -> [B, T, H, K], each token seeing all earlier ones."""
    q, k, v = (constrain(t, *_AXES) for t in (q, k, v))
    return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")


def pallas_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None = None,
    *,
    interpret: bool = False,
) -> jax.Array:
    """[B, T, H, K] -> [B, T, H, K] within segments [B, T]; `interpret` runs it anywhere, slowly."""
    length = q.shape[1]
    ends = ((0, 0), (0, -length % _TILE), (0, 0), (0, 0))  # Nothing sees the keys after it.
    q, k, v = (jnp.pad(t, ends) for t in (q, k, v))
    if segments is not None:
        segments = jnp.pad(jnp.broadcast_to(segments, (q.shape[0], length)), ends[:2])
    run = functools.partial(_mha, interpret=interpret)
    if distributed():  # XLA cannot split a kernel, so that each device would compute everything.
        whole, rows = spec(_AXES), spec(_AXES[:2])
        specs = (whole, whole, whole, rows)
        run = jax.shard_map(run, in_specs=specs, out_specs=whole, check_vma=False)
    return run(q, k, v, segments)[:, :length]


def _mha(q, k, v, segments, *, interpret):
    from jax.experimental.pallas.ops.gpu import attention as kernel  # slow to import

    tiles = kernel.BlockSizes(*(_TILE,) * 6)
    how = {"sm_scale": q.shape[-1] ** -0.5, "causal": True, "block_sizes": tiles}
    return kernel.mha(q, k, v, segments, **how, interpret=interpret)


def cudnn_refusal(
    q: jax.Array,
    segments: jax.Array | None,
    slopes: tuple[float, ...] | None,
    drop: Callable[..., jax.Array] | None,
) -> str | None:
    """Why cuDNN's kernel is not exact for a case or does not run it; None if it fits."""
    if segments is not None:
        return "cuDNN would let the documents of a packed row see each other"
    most = 256 if _capability() >= 9.0 else 128
    sizes = range(8, most + 1, 8)
    return _refusal(q, slopes, drop, sizes, f"a multiple of 8 up to {most}")


def pallas_refusal(
    q: jax.Array,
    segments: jax.Array | None,
    slopes: tuple[float, ...] | None,
    drop: Callable[..., jax.Array] | None,
) -> str | None:
    """The same of the Pallas kernel, which any segments fit."""
    sizes = (32, 64, 128)  # those of jax's own tests
    reason = _refusal(q, slopes, drop, sizes, "32, 64 or 128")
    if reason is None and not _has_kernel():
        return f"jax {jax.__version__} has the kernel no more"
    return reason


def _has_kernel() -> bool:
    try:
        import jax.experimental.pallas.ops.gpu.attention  # noqa: F401
    except ImportError:
        return False
    return True


def _refusal(q, slopes, drop, sizes: Container[int], named: str) -> str | None:
    """Why a kernel for heads of these sizes does not fit."""
    size = q.shape[-1]
    if _capability() < 8.0:
        return f"it needs an NVIDIA GPU of compute capability 8.0, not {jax.default_backend()}"
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it computes in bfloat16 or float16, not {q.dtype}"
    if size not in sizes:
        return f"it takes heads of {named} features, not {size}"
    if slopes is not None:
        return "it has no ALiBi"
    if drop is not None:
        return "it has no dropout"
    if not divides(q.shape, _AXES):
        return f"the mesh does not divide {q.shape[0]} rows and {q.shape[2]} heads evenly"
    return None


def _capability() -> float:
    """Compute capability of this process's NVIDIA GPUs, 0 without one."""
    if jax.default_backend() != "gpu":
        return 0.0
    said = jax.local_devices()[0].compute_capability
    return float(said) if said.replace(".", "").isdigit() else 0.0  # AMD's are names
