"""What the machine reaches on a large matrix product and a large copy, and shares of that."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmark import WINDOW, Benchmark, By
import jax
import jax.numpy as jnp
from timing import summary, take_turns, timed

PEAK = 989e12  # operations a second: dense bfloat16 of an H100 or H200, as published
Limits = dict[str, dict[str, float]]  # rows "copy" and "gemm ...", as `measured` returns them
FLAGS = {**WINDOW, "gemm_size": By(128, 2048, 8192), "copy_megabytes": By(1, 128, 4000)}


def calibration(args: argparse.Namespace) -> dict[str, Any]:
    """What the machine reaches: a square matrix product, and a copy."""
    return {"results": rows(args, args.n, ("float32", "bfloat16"))}


def measured(args: argparse.Namespace, *dtypes: str) -> Limits:
    """The rows of `calibration` that shares are of, in a few runs."""
    return rows(args, min(args.n, 5), dtypes or (args.dtype,))


def rows(args: argparse.Namespace, n: int, dtypes: tuple[str, ...]) -> Limits:
    size = args.gemm_size
    x = jnp.zeros(args.copy_megabytes * 250_000, jnp.float32)
    variants = {"copy": timed(partial(jax.jit(lambda x: x + 1), x), args.window)}
    for dtype in dtypes:
        a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
        for name, form in _forms(dtype).items():
            variants[name] = timed(partial(jax.jit(form), a, a), args.window)
    seconds = take_turns(variants, n, args.warmup)
    work = {name: {"flops_per_s": 2 * size**3 / min(s)} for name, s in seconds.items()}
    work["copy"] = {"bytes_per_s": 2 * x.nbytes / min(seconds["copy"])}
    return {name: summary(s) | work[name] for name, s in seconds.items()}


def _forms(dtype: str) -> dict[str, Callable[..., jax.Array]]:
    """Products of a dtype: some machines are faster where sums are kept in float32."""
    if dtype == "float32":  # and not TF32
        return {"gemm float32": partial(jnp.dot, precision="highest")}
    wide = partial(jnp.dot, preferred_element_type=jnp.float32)
    return {f"gemm {dtype}": jnp.dot, f"gemm {dtype} to float32": wide}


def shares(
    row: dict[str, Any],
    limits: Limits,
    dtype: str,
    *,
    flops: float = 0,
    moved: float = 0,
) -> dict[str, Any]:
    """`row` with how near it comes to the limits at its median.

    Args:
      flops: operations of a run; for `mfu_989` and the share of the best product of `dtype`.
      moved: bytes that a run has to read and write at least; for the share of the copy.
    """
    row = dict(row)
    if flops:
        gemm = max(m["flops_per_s"] for name, m in limits.items() if f"gemm {dtype}" in name)
        row["flops_per_s"] = flops / row["median_s"]
        row["mfu_989"] = row["flops_per_s"] / PEAK
        row["of_gemm"] = row["flops_per_s"] / gemm
    if moved:
        row["bytes_per_s"] = moved / row["median_s"]
        row["of_copy"] = row["bytes_per_s"] / limits["copy"]["bytes_per_s"]
    return row


BENCHMARKS = {"B0": Benchmark(calibration, FLAGS)}
