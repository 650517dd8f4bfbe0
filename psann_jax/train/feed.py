"""Host batches onto the mesh."""

import jax
import numpy as np

from psann_jax import sharding
from psann_jax.seq import Batch, Share, dealt


def share(mesh: jax.sharding.Mesh) -> Share:
    """What this process reads of each batch: the rows that its devices of the mesh hold."""
    return Share(sharding.batch_parts(mesh), sharding.batch_ways(mesh))


def on_mesh(batch: Batch, mesh: jax.sharding.Mesh, micro_batches: int | None = None) -> Batch:
    """This process's rows [b, T] as global arrays [B, T], or [A, B / A, T] micro-batches."""
    where = sharding.batch_sharding(mesh, leading=0 if micro_batches is None else 1)

    def place(a: np.ndarray) -> jax.Array:
        if micro_batches is not None:
            a = dealt(a, micro_batches)
        return jax.make_array_from_process_local_data(where, a)

    return Batch(*map(place, batch))
