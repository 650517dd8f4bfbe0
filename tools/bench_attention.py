"""Benchmark of attention: each way to compute it that fits, on packed or whole rows."""

import argparse
from functools import partial
from typing import Any

from benchmark import DTYPE, Benchmark, By, Flags
import jax
import jax.numpy as jnp
from timing import ratio, summary, take_turns, timed

from psann_jax.ops import alibi
from psann_jax.ops.attention import BACKENDS, attention


def backends(args: argparse.Namespace) -> dict[str, Any]:
    """Attention forward and backward by every backend; `refused` says why one is not there."""
    shape = (args.batch, args.length, args.heads, args.head_dim)
    arrays = jax.random.normal(jax.random.key(0), (4, *shape), args.dtype)
    case = {"slopes": alibi.slopes(args.heads) if args.alibi else None}
    if args.document:
        place = jnp.arange(args.length) // args.document + 1
        case["segments"] = jnp.broadcast_to(place, shape[:2])
    variants, memory, refused = {}, {}, {}
    for name in args.backends:
        op = partial(attention, **case, backend=name)
        try:
            programs = {"forward": op, "forward+backward": partial(_both, op, arrays[3])}
            compiled = {n: jax.jit(f).lower(*arrays[:3]).compile() for n, f in programs.items()}
        except ValueError as error:
            refused[name] = str(error)
            continue
        for part, run in compiled.items():
            variants[f"{name} {part}"] = timed(partial(run, *arrays[:3]))
            memory[f"{name} {part}"] = run.memory_analysis().temp_size_in_bytes
    seconds = take_turns(variants, args.n, args.warmup)
    results = {
        name: summary(s, args.batch * args.length) | {"temporary_bytes": memory[name]}
        for name, s in seconds.items()
    }
    part = "forward+backward"
    blocks = seconds.get(f"blocks {part}")
    others = [n for n in seconds if n.endswith(part) and n != f"blocks {part}" and blocks]
    ratios = {f"ratio blocks / {n.split()[0]}": ratio(blocks, seconds[n]) for n in others}
    return {"results": results, "refused": refused, **ratios}


def _both(op, g, *qkv):
    out, pull = jax.vjp(op, *qkv)
    return out, pull(g)


FLAGS: Flags = {
    **DTYPE,
    "batch": By(1, 1, 8),
    "length": By(40, 1024, 4096),
    "heads": By(2, 4, 16),
    "head_dim": By(8, 64, 64),
    "document": 0,  # tokens of one; 0: rows are not packed
    "alibi": False,
    "backends": BACKENDS[1:],
}
BENCHMARKS = {"attention": Benchmark(backends, FLAGS)}
