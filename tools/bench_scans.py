"""Benchmarks of the recurrences: chunked against sequential, by length; decoding by context."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmark import DTYPE, Benchmark, By, Flags
from flax import nnx
import jax
import jax.numpy as jnp
from timing import ratio, summary, take_turns, timed

from psann_jax import bases
from psann_jax.infer.decode import decoding_model
from psann_jax.model import LM
from psann_jax.ops.ssd import ssd, ssd_sequential
from psann_jax.ops.wkv6 import wkv6, wkv6_sequential

FLAGS: Flags = {
    **DTYPE,
    "op": "wkv6",
    "batch": By(1, 4, 4),
    "heads": By(1, 4, 4),
    "head_dim": By(4, 64, 64),  # also the state's other size
    "decays": "init",
}
OPS = {"wkv6": (wkv6, wkv6_sequential), "ssd": (ssd, ssd_sequential)}


def scans(args: argparse.Namespace) -> dict[str, Any]:
    """A recurrence forward and backward at several chunks, against the scan over tokens."""
    chunked, sequential = OPS[args.op]
    inputs = _inputs(args, args.length, args.batch)
    variants = {"sequential": timed(partial(_both(sequential), *inputs))}
    variants["sequential forward"] = timed(partial(jax.jit(sequential), *inputs))
    for chunk in args.chunks:
        op = partial(chunked, chunk=chunk)
        variants[f"chunk {chunk}"] = timed(partial(_both(op), *inputs))
        variants[f"chunk {chunk} forward"] = timed(partial(jax.jit(op), *inputs))
    seconds = take_turns(variants, args.n, args.warmup)
    head_tokens = args.length * args.batch * args.heads
    results = {name: _per_head_token(s, head_tokens) for name, s in seconds.items()}
    slow = seconds["sequential"]
    ratios = {
        f"ratio sequential / {n}": ratio(slow, s)
        for n, s in seconds.items()
        if n.startswith("chunk")
    }
    return {"results": results, **{n: r for n, r in ratios.items() if not n.endswith("forward")}}


def scan_lengths(args: argparse.Namespace) -> dict[str, Any]:
    """Time and memory a token of the chunked recurrence, as the row grows."""
    variants, memory = {}, {}
    for length in args.lengths:
        inputs = _inputs(args, length, 1)
        run = _both(OPS[args.op][0]).lower(*inputs).compile()
        variants[length] = timed(partial(run, *inputs))
        memory[length] = run.memory_analysis().temp_size_in_bytes
    seconds = take_turns(variants, args.n, args.warmup)
    results = {}
    for length, taken in seconds.items():
        row = _per_head_token(taken, length * args.heads)
        results[f"T {length}"] = row | {"temporary_bytes_per_token": memory[length] / length}
    return {"results": results}


def context(args: argparse.Namespace) -> dict[str, Any]:
    """One decoded token of a batch after a short and a long context: the same time if constant."""
    base = bases.preset(args.preset, vocab_size=args.vocab_size, dtype=args.dtype)
    model = jax.jit(decoding_model)(LM(base, rngs=nnx.Rngs(0)))
    step, variants = jax.jit(lambda m, t, s: m(t, None, s)), {}
    for length in args.lengths:
        tokens = jax.random.randint(jax.random.key(0), (args.batch, length), 0, args.vocab_size)
        _, state = step(model, tokens, model.init_state(args.batch, length + 1))
        variants[f"after {length}"] = timed(partial(step, model, tokens[:, :1], state))
    seconds = take_turns(variants, args.n, args.warmup)
    (a, first), (b, last) = list(seconds.items())[:: len(seconds) - 1]
    results = {name: summary(s, args.batch) for name, s in seconds.items()}
    return {"results": results, f"ratio {b} / {a}": ratio(last, first)}


def _inputs(args: argparse.Namespace, length: int, batch: int) -> tuple[jax.Array, ...]:
    """Arrays as a fresh layer gives them, or with decays that forget within a token."""
    keys, heads, size = jax.random.split(jax.random.key(0), 5), args.heads, args.head_dim
    shape, dtype = (batch, length, heads, size), jnp.dtype(args.dtype)
    x, b, c = (jax.random.normal(key, shape, dtype) for key in keys[:3])
    strong = args.decays == "strong"
    if args.op == "wkv6":
        low, high = (-2.0, 8.0) if strong else (-6.0, -1.0)
        ww = jax.random.uniform(keys[3], shape, minval=low, maxval=high)
        return x, b, c, -jnp.exp(ww), jax.random.normal(keys[4], (heads, size))
    low, high = (1.0, 8.0) if strong else (1e-3, 0.1)
    dt = jax.random.uniform(keys[3], shape[:3], minval=low, maxval=high)
    decay = -jax.random.uniform(keys[4], (heads,), minval=1.0, maxval=16.0)
    return x, dt, decay, b[:, :, :1], c[:, :, :1], jnp.ones((heads,))


def _both(op: Callable[..., Any]) -> Any:
    """Outputs and the gradients of every input, compiled."""

    @jax.jit
    def run(*inputs):
        out, pull = jax.vjp(op, *inputs)
        return out, pull(jax.tree.map(jnp.cos, out))

    return run


def _per_head_token(seconds: list[float], head_tokens: int) -> dict[str, float]:
    row = summary(seconds)
    return row | {"ns_per_head_token": row["median_s"] * 1e9 / head_tokens}


BENCHMARKS = {
    "scans": Benchmark(
        scans,
        {**FLAGS, "length": By(40, 512, 512), "chunks": By((16,), (32, 64, 128), (32, 64, 128))},
    ),
    "scan-lengths": Benchmark(
        scan_lengths, {**FLAGS, "lengths": By((16, 32), (512, 1024, 2048, 4096, 8192), (512, 8192))}
    ),
    "context": Benchmark(
        context,
        {
            **DTYPE,
            "preset": "5M",
            "batch": By(1, 8, 8),
            "vocab_size": 97,
            "lengths": By((4, 8), (128, 8192), (128, 8192)),  # tokens of context
        },
    ),
}
