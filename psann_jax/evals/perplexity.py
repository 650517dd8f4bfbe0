"""Loss, perplexity and bits per byte of a model on held-out rows."""

from collections.abc import Callable
import functools
from typing import Any

import jax

from psann_jax import sharding
from psann_jax.data import Rows, batches, n_steps
from psann_jax.train.feed import on_mesh, share
from psann_jax.train.metrics import bits_per_byte, perplexity


def evaluate(
    eval_step: Callable[[Any, Any], tuple[jax.Array, jax.Array]],
    model: Any,
    rows: Rows,
    mesh: jax.sharding.Mesh,
    *,
    batch_rows: int,
    bytes_per_token: float,
    max_batches: int = 0,
) -> dict[str, float]:
    """Mean over the weighted tokens of `rows`, in order, once.

    Args:
      eval_step: a compiled `train.step.eval_step`.
      batch_rows: rows a call, over all processes.
      bytes_per_token: bytes of text for each weighted token of these rows.
      max_batches: stops after so many calls; 0 reads all rows.

    Returns:
      val_loss in nats a token, val_ppl, val_bits_per_byte.
    """
    stop = n_steps(len(rows), batch_rows, epochs=1)
    nats = tokens = 0.0
    for batch in batches(
        rows,
        batch_rows=batch_rows,
        seed=0,
        order="stored",
        epochs=1,
        stop_step=min(stop, max_batches or stop),
        multiple_of=sharding.batch_ways(mesh),
        share=share(mesh),
    ):
        summed = eval_step(model, on_mesh(batch, mesh))
        nats, tokens = nats + float(summed[0]), tokens + float(summed[1])
    loss = nats / max(tokens, 1.0)
    n_bytes = max(tokens, 1.0) * bytes_per_token
    return {
        "val_loss": loss,
        "val_ppl": perplexity(loss),
        "val_bits_per_byte": bits_per_byte(nats, n_bytes),
    }


def evaluate_carried(
    eval_step: Callable[[Any, Any, Any], tuple[jax.Array, jax.Array, Any]],
    model: Any,
    rows: Rows,
    mesh: jax.sharding.Mesh,
    *,
    tracks: int,
    max_batches: int = 0,
) -> dict[str, float]:
    """Mean over the weighted tokens of `rows` in parallel tracks, with the states carried along.

    Args:
      eval_step: a compiled `train.step.carried_eval_step`.
      tracks: over all processes; where there are fewer rows, one of each. The rows that are left
        when these are cut into tracks are not read.
      max_batches: stops after so many calls; 0 reads the tracks to their end.

    Returns:
      val_loss_carried in nats a token.
    """
    tracks, ways = min(tracks, len(rows)), sharding.batch_ways(mesh)
    stop = n_steps(len(rows), tracks, 1, "tracks")
    n_states, where = -(-tracks // ways) * ways, sharding.batch_sharding(mesh)
    carry = _first_states(n_states, rows.max_length, where)(model)
    nats = tokens = 0.0
    for batch in batches(
        rows,
        batch_rows=tracks,
        seed=0,
        order="tracks",
        epochs=1,
        stop_step=min(stop, max_batches or stop),
        multiple_of=ways,
        share=share(mesh),
    ):
        *summed, carry = eval_step(model, on_mesh(batch, mesh), carry)
        nats, tokens = nats + float(summed[0]), tokens + float(summed[1])
    return {"val_loss_carried": nats / max(tokens, 1.0)}


@functools.cache
def _first_states(n: int, length: int, where: jax.sharding.Sharding) -> Callable[[Any], Any]:
    """From a model to its states of n rows, placed; compiled once for all evaluations."""
    return jax.jit(lambda model: model.init_state(n, length), out_shardings=where)
