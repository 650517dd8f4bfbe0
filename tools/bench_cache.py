"""What the cache of decoding is worth, by the definition of the PyTorch original's script.

There the prompts of a batch are continued with a cache at once, and without one row by row, so
that most of its ratio is the batch. Here the loop without a cache runs both ways.
"""

import argparse
from functools import partial
from typing import Any

from benchmark import Benchmark, By
import jax
import jax.numpy as jnp
from model_sizes import OVERRIDES, base_of, sizes_of
import numpy as np
from timing import ratio, summary, take_turns, timed
from trainer import fresh_model

from psann_jax.infer.decode import generate
from psann_jax.infer.sampling import Sampling
from psann_jax.model import LM

PIECE = 16  # without a cache a row is read up to a multiple of it, so that few shapes are compiled


def cached(args: argparse.Namespace) -> dict[str, Any]:
    """Greedy decoding with a cache, beside reading the whole row again for every token."""
    sizes = sizes_of(args)
    model = fresh_model(base_of(args.base, sizes, args.dtype))
    prompts = np.random.default_rng(0).integers(0, sizes.vocab_size, (sizes.batch, sizes.length))
    new, found = args.new_tokens, {}

    def with_cache() -> None:
        greedy = Sampling(temperature=0.0)
        ids = generate(model, prompts.tolist(), max_new_tokens=new, sampling=greedy)
        found["cache"] = np.array(ids)

    def without() -> None:
        found["no cache"] = uncached(model, prompts, new)

    def row_by_row() -> None:
        for row in prompts:
            uncached(model, row[None], new)

    runs = {"cache": with_cache, "no cache": without, "no cache, row by row": row_by_row}
    seconds = take_turns({name: timed(run) for name, run in runs.items()}, args.n, args.warmup)
    return {
        "results": {name: summary(taken, sizes.batch * new) for name, taken in seconds.items()},
        "same_tokens": float(np.mean(found["cache"] == found["no cache"])),
        **{
            f"ratio {name} / cache": ratio(seconds[name], seconds["cache"])
            for name in list(runs)[1:]
        },
    }


def uncached(model: LM, prompts: np.ndarray, n_new: int) -> np.ndarray:
    """Greedy continuations [B, n_new] of prompts [B, P]; each token reads all before it."""
    length = prompts.shape[1]
    rows = jnp.zeros((len(prompts), -(-(length + n_new) // PIECE) * PIECE), jnp.int32)
    rows = rows.at[:, :length].set(prompts)
    for n in range(length, length + n_new):
        rows = _next(model, rows, jnp.int32(n), read=-(-n // PIECE) * PIECE)
    return np.asarray(rows[:, length : length + n_new])


@partial(jax.jit, static_argnames="read", donate_argnames="rows")
def _next(model: LM, rows: jax.Array, n: jax.Array, *, read: int) -> jax.Array:
    """Rows with their token n, where the first `read` >= n of each are read."""
    x, _ = model.features(rows[:, :read])
    last = jax.lax.dynamic_slice_in_dim(x, n - 1, 1, axis=1)
    return rows.at[:, n].set(model.logits(last)[:, 0].argmax(-1))


BENCHMARKS = {
    "kv-cache": Benchmark(
        cached,
        {
            **OVERRIDES,
            "new_tokens": By(4, 64, 64),
            "n": By(1, 3, 10),
            "warmup": 1,
            "base": "waveresnet",
            "dtype": "float32",
            "config": By("tiny", "decode", "decode"),
        },
    ),
}
