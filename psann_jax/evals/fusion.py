"""How a hybrid weighs its branches: gates and gains by layer, and how loud each branch is."""

from typing import Any

import jax
import jax.numpy as jnp

from psann_jax.model import LM
from psann_jax.nn.hybrid import Hybrid
from psann_jax.seq import Batch, Seq


@jax.jit
def fusion_by_layer(model: LM, batch: Batch) -> dict[str, jax.Array]:
    """Means over the tokens of `batch` [B, T] but padding, a number a layer, [L] each.

    Returns:
      "gate" (the share of rwkv), or "gain_rwkv" and "gain_mamba"; and "rms_rwkv", "rms_mamba":
      root mean square of what the branches say before they are joined. Empty without hybrids.
    """
    seq = Seq(batch.positions, batch.segments)
    x, rows = model.embedded(batch.inputs, seq), []
    for sublayers in model.stack.unrolled().layers:
        for sublayer in sublayers:
            if isinstance(sublayer.mixer, Hybrid):
                rows.append(_means(sublayer.mixer, sublayer.norm(x), seq))
            x, _ = sublayer(x, seq)
    return jax.tree.map(lambda *values: jnp.stack(values), *rows) if rows else {}


def _means(hybrid: Hybrid, x: jax.Array, seq: Seq) -> dict[str, jax.Array]:
    (a, b), _ = hybrid.branches(x, seq)
    real = None if seq.segments is None else (seq.segments > 0)[..., None]
    names = {"gate": "gate", "gain_a": "gain_rwkv", "gain_b": "gain_mamba"}
    weights = {names[name]: value for name, value in hybrid.fuse.means(a, b, real).items()}
    return weights | {"rms_rwkv": _rms(a, real), "rms_mamba": _rms(b, real)}


def _rms(x: jax.Array, real: jax.Array | None) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32)), where=real))


def fusion_means(model: LM, batch: Batch) -> dict[str, Any]:
    """`fusion_by_layer` averaged over the layers, as numbers for a log line."""
    return {f"{k}_mean": float(jnp.mean(v)) for k, v in fusion_by_layer(model, batch).items()}
