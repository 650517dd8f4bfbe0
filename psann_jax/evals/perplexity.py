"""Loss, perplexity and bits per byte of a model on held-out rows."""

from collections.abc import Callable
import functools
from typing import Any

import jax

from psann_jax import sharding
from psann_jax.data import HeldOut, Rows, batches
from psann_jax.train.feed import on_mesh, share
from psann_jax.train.metrics import bits_per_byte, perplexity


def evaluate(
    eval_step: Callable[[Any, Any], tuple[jax.Array, jax.Array, jax.Array]],
    model: Any,
    held_out: HeldOut,
    mesh: jax.sharding.Mesh,
    *,
    batch_rows: int,
) -> dict[str, float]:
    """Mean over the weighted tokens of the rows, in order, once.

    Args:
      eval_step: a compiled `train.step.eval_step`.
      batch_rows: rows a call, over all processes.

    Returns:
      val_loss in nats a token, val_ppl, val_bits_per_byte, and val_top1_acc, the share of tokens
      that the model holds for the most likely.
    """
    nats = tokens = hits = 0.0
    for batch in batches(
        held_out.rows,
        batch_rows=batch_rows,
        seed=0,
        order="stored",
        epochs=1,
        multiple_of=sharding.batch_ways(mesh),
        share=share(mesh),
    ):
        summed = eval_step(model, on_mesh(batch, mesh))
        nats, tokens = nats + float(summed[0]), tokens + float(summed[1])
        hits += float(summed[2])
    loss = nats / max(tokens, 1.0)
    return {
        "val_loss": loss,
        "val_ppl": perplexity(loss),
        "val_bits_per_byte": bits_per_byte(nats, held_out.n_bytes),
        "val_top1_acc": hits / max(tokens, 1.0),
    }


def evaluate_carried(
    eval_step: Callable[[Any, Any, Any], tuple[jax.Array, jax.Array, Any]],
    model: Any,
    rows: Rows,
    mesh: jax.sharding.Mesh,
    *,
    tracks: int,
) -> dict[str, float]:
    """Mean over the weighted tokens of `rows` in parallel tracks, with the states carried along.

    Args:
      eval_step: a compiled `train.step.carried_eval_step`.
      tracks: over all processes; where there are fewer rows, one of each. The rows that are left
        when these are cut into tracks are not read.

    Returns:
      val_loss_carried in nats a token.
    """
    tracks, ways = min(tracks, len(rows)), sharding.batch_ways(mesh)
    n_states, where = -(-tracks // ways) * ways, sharding.batch_sharding(mesh)
    carry = _first_states(n_states, rows.max_length, where)(model)
    nats = tokens = 0.0
    for batch in batches(
        rows,
        batch_rows=tracks,
        seed=0,
        order="tracks",
        epochs=1,
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
