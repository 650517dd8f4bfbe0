"""A local sparse map beside its alternatives."""

import argparse
from functools import partial
from typing import Any

from benchmark import DTYPE, Benchmark, By
import jax
import jax.numpy as jnp
from timing import ratio, summary, take_turns, timed

from psann_jax.ops.stencil import gathered, neighbours, square, stencil


def sparse(args: argparse.Namespace) -> dict[str, Any]:
    """A local sparse map forward and backward: shifts, the same as a gather, and a dense matmul."""
    side = int(args.features**0.5)
    shape = (side, args.features // side)
    offsets = square(args.radius)[: args.k]
    index = jnp.asarray(neighbours(shape, offsets, "clamp"))
    x, g = jax.random.normal(jax.random.key(0), (2, args.rows, args.features), args.dtype)
    weight = jax.random.normal(jax.random.key(1), (len(offsets), args.features))
    dense = jax.random.normal(jax.random.key(2), (args.features, args.features))
    by_shifts = partial(stencil, shape=shape, offsets=offsets, border="clamp")
    maps = {
        "shifts": (by_shifts, weight),
        "gather": (lambda x, w: gathered(x, w, index), weight),
        "dense": (lambda x, w: x @ w.astype(x.dtype), dense),
    }
    variants = {}
    for name, (function, w) in maps.items():
        both = jax.jit(lambda x, w, g, f=function: jax.vjp(f, x, w)[1](g))
        variants[f"{name} forward"] = timed(partial(jax.jit(function), x, w))
        variants[f"{name} forward+backward"] = timed(partial(both, x, w, g))
    seconds = take_turns(variants, args.n, args.warmup)
    record: dict[str, Any] = {"results": {name: summary(s) for name, s in seconds.items()}}
    for other in ("gather", "dense"):
        for part in ("forward", "forward+backward"):
            pair = seconds[f"{other} {part}"], seconds[f"shifts {part}"]
            record[f"ratio {other} {part} / shifts {part}"] = ratio(*pair)
    return record


BENCHMARKS = {
    "sparse": Benchmark(
        sparse,
        {
            **DTYPE,
            "rows": By(32, 2048, 2048),
            "features": By(16, 1024, 1024),
            "k": 8,  # connections
            "radius": 1,
        },
    )
}
