"""Benchmarks of the bases beside each other, and of the sparse map beside its alternatives."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import ratio, summary, take_turns, timed

from psann_jax import bases, sharding
from psann_jax.model import LM, parameter_count
from psann_jax.ops.stencil import gathered, neighbours, square, stencil
from psann_jax.seq import Batch
from psann_jax.train.optimizer import OptimizerConfig, make_optimizer
from psann_jax.train.state import init_state
from psann_jax.train.step import jit_train_step

NAMES = ("respsann", "waveresnet", "sgrpsann", "geosparse", "transformer")


def base_steps(args: argparse.Namespace) -> dict[str, Any]:
    """The train step of every base at the same sizes, in turns; ratios are to respsann."""
    variants, counts = {}, {}
    for name in args.bases.split(","):
        variants[name], counts[name] = _step_of(name, args)
    seconds = take_turns(variants, args.n, args.warmup)
    tokens = args.batch * args.length
    results = {n: summary(s, tokens) | {"parameters": counts[n]} for n, s in seconds.items()}
    first = next(iter(seconds))
    ratios = {f"ratio_{n}": ratio(seconds[first], s) for n, s in seconds.items() if n != first}
    return {"results": results, **ratios}


def _step_of(name: str, args: argparse.Namespace) -> tuple[Callable[[], float], int]:
    sizes = ("vocab_size", "d_model", "n_layers", "n_heads", "d_mlp", "dtype")
    base = bases.get(name)(**{size: getattr(args, size) for size in sizes})
    optimizer = make_optimizer(OptimizerConfig(), 1000)
    mesh = sharding.make_mesh()
    state, where = init_state(lambda r: LM(base, rngs=r), optimizer, mesh, seed=0)
    step, batch = jit_train_step(optimizer, where), _packed_rows(args)

    def once():
        nonlocal state
        with jax.set_mesh(mesh):
            state, _ = step(state, batch)
        return state

    return timed(once), parameter_count(state.model)


def _packed_rows(args: argparse.Namespace) -> Batch:
    """Rows of documents of 400 tokens, as text is packed, [1, B, T]."""
    shape = (1, args.batch, args.length + 1)
    tokens = np.random.default_rng(0).integers(0, args.vocab_size, shape).astype(np.int32)
    place = np.broadcast_to(np.arange(args.length, dtype=np.int32), (*shape[:2], args.length))
    weights = np.ones(place.shape, np.float32)
    return Batch(tokens[..., :-1], tokens[..., 1:], weights, place % 400, place // 400 + 1)


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
            record[f"ratio_{other}_{part}"] = ratio(*pair)
    return record
