"""What a train step is made of, each alone: against the bytes or the operations it needs."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from benchmark import DTYPE, Benchmark, By
import jax
import jax.numpy as jnp
import limits
from model_sizes import OVERRIDES, Sizes, sizes_of
from timing import ratio, summary, take_turns, timed

from psann_jax.compiling import jit
from psann_jax.nn.norm import RMSNorm
from psann_jax.ops import sine
from psann_jax.ops.attention import attention
from psann_jax.ops.cross_entropy import linear_cross_entropy

Function = Callable[..., jax.Array]


class Kernel(NamedTuple):
    """A function of arrays, and what it needs at least, forward and with its gradients."""

    function: Function
    inputs: tuple[jax.Array, ...]
    flops: tuple[float, float] = (0, 0)
    moved: tuple[float, float] = (0, 0)  # bytes


def kernels(args: argparse.Namespace) -> dict[str, Any]:
    """Sine, norm, cross-entropy and attention alone, with GELU and the sine as jnp has it."""
    found = kernels_of(sizes_of(args), args.dtype)
    variants, needs = {}, {}
    for name, kernel in found.items():
        forward, both = jit(kernel.function), jit(partial(_both, kernel.function))
        gradient = _like(jax.eval_shape(kernel.function, *kernel.inputs))
        runs = {
            "forward": partial(forward, *kernel.inputs),
            "forward+backward": partial(both, gradient, *kernel.inputs),
        }
        for i, (part, run) in enumerate(runs.items()):
            variants[f"{name} {part}"] = timed(run, args.window)
            needs[f"{name} {part}"] = {"flops": kernel.flops[i], "moved": kernel.moved[i]}
    results: dict[str, Any] = limits.measured(args)
    machine = dict(results)
    seconds = take_turns(variants, args.n, args.warmup)
    for name, taken in seconds.items():
        results[name] = limits.shares(summary(taken), machine, args.dtype, **needs[name])
    ours = seconds["sine forward+backward"]
    pairs = {other: seconds[f"{other} forward+backward"] for other in ("plain sine", "gelu")}
    return {"results": results, **{f"ratio {n} / sine": ratio(s, ours) for n, s in pairs.items()}}


def _like(shape: jax.ShapeDtypeStruct) -> jax.Array:
    """The gradient of a result, as the operation behind it would hand it over."""
    return jax.random.normal(jax.random.key(9), shape.shape, shape.dtype)


def _both(function: Function, gradient: jax.Array, *inputs: jax.Array) -> Any:
    """The result, and the gradients of each input of floats under that of the result."""
    floats = [i for i, a in enumerate(inputs) if jnp.issubdtype(a.dtype, jnp.floating)]

    def of(*chosen):
        placed = list(inputs)
        for i, a in zip(floats, chosen, strict=True):
            placed[i] = a
        return function(*placed)

    out, pull = jax.vjp(of, *(inputs[i] for i in floats))
    return out, pull(gradient)


def kernels_of(sizes: Sizes, dtype: str) -> dict[str, Kernel]:
    """The kernels at the shapes that a step of these sizes has."""
    d, f, t, h = sizes.d_model, sizes.d_mlp, sizes.length, sizes.n_heads
    tokens, size = sizes.batch * t, jnp.dtype(dtype).itemsize
    keys = jax.random.split(jax.random.key(0), 6)
    x = jax.random.normal(keys[0], (sizes.batch, t, d), dtype)
    z = jax.random.normal(keys[1], (tokens, f), dtype)
    q, k, v = jax.random.normal(keys[2], (3, sizes.batch, t, h, d // h), dtype)
    table = jax.random.normal(keys[3], (d, sizes.vocab_size)) / d**0.5
    targets = jax.random.randint(keys[4], (sizes.batch, t), 0, sizes.vocab_size)
    waves = tuple(jnp.full(f, value) for value in (1.0, 1.1, 0.01))
    head, pairs = 2 * tokens * d * sizes.vocab_size, 2 * tokens * t * d  # half of T x T, twice
    # Read and written forward; backward it reads input and gradient, and writes one.
    wide, narrow = ((2 * n * size, 5 * n * size) for n in (z.size, x.size))
    norm = RMSNorm(d)
    return {
        "sine": Kernel(sine.sine, (z, *waves), moved=wide),
        "plain sine": Kernel(sine.reference, (z, *waves), moved=wide),
        "gelu": Kernel(partial(jax.nn.gelu, approximate=False), (z,), moved=wide),
        "norm": Kernel(norm.__call__, (x,), moved=narrow),
        "cross-entropy": Kernel(
            lambda x, w: linear_cross_entropy(x, w, targets, jnp.ones(targets.shape)),
            (x, table),
            flops=(head, 3 * head),
        ),
        "attention": Kernel(
            lambda q, k, v, segments: attention(q, k, v, segments=segments),
            (q, k, v, jnp.ones(targets.shape, jnp.int32)),  # as a batch has them
            flops=(pairs, 3 * pairs),
        ),
    }


BENCHMARKS = {
    "B18": Benchmark(
        kernels,
        {**limits.FLAGS, **OVERRIDES, **DTYPE, "config": By("tiny", "d256", "S")},
    )
}
