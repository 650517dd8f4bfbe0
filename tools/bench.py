"""Benchmarks: `.venv/bin/python tools/bench.py train --config d512 --compile`.

Prints one JSON object to stdout (or --out FILE), and rows for the eye to stderr. A benchmark
is a function of the arguments that returns a record; BENCHMARKS names them all.
"""

import argparse
from collections.abc import Callable
from functools import partial
import json
from pathlib import Path
import sys
from typing import Any

import bench_attention
from bench_bases import NAMES, base_steps, sparse
import bench_groundthink
from bench_groundthink import b1, b2, b3
from bench_psannlm import SIZES, base_of, decode, packed, train, train_setup
import bench_scans
from bench_scans import context, scan_lengths, scans
import jax
import jax.numpy as jnp
import profile_step
from timing import (
    machine,
    ratio,
    summary,
    take_turns,
    timed,
    use_threads,
)

from psann_jax.ops import sine
from psann_jax.run.environment import keep_memory
from psann_jax.train.optimizer import OptimizerConfig, make_optimizer

OWN_FIGURES = (  # of a row, that are no times
    "ns_per_head_token",
    "argument_bytes",
    "temporary_bytes",
    "temporary_bytes_per_token",
    "loss_start",
    "loss_end",
    "mean_grad_norm",
    "passed",
)
CONFIGS = {
    "d256": (256, 4, 4, 1024, 4096, 256, 8),
    "d512": (512, 4, 8, 2048, 8192, 256, 4),
    "decode": (512, 8, 8, 2048, 100, 96, 8),
    "long": (256, 4, 4, 1024, 4096, 1024, 2),
}


def sine_op(args: argparse.Namespace) -> dict[str, Any]:
    """The sine and its gradient on [rows, features], beside exact GELU and the plain form."""
    shape = (args.rows, args.features)
    z, g = jax.random.normal(jax.random.key(0), (2, *shape), args.dtype)
    parameters = tuple(jnp.full(args.features, v) for v in (1.0, 1.1, 0.01))
    functions = {
        "sine": sine.sine,
        "reference": sine.reference,
        "gelu": lambda z, *_: jax.nn.gelu(z, approximate=False),
    }
    variants = {}
    for name, function in functions.items():
        forward, both = jax.jit(function), jax.jit(partial(forward_backward, function))
        variants[f"{name} forward"] = timed(partial(forward, z, *parameters))
        variants[f"{name} forward+backward"] = timed(partial(both, g, z, *parameters))
    seconds = take_turns(variants, args.n, args.warmup)
    record: dict[str, Any] = {"results": {name: summary(s) for name, s in seconds.items()}}
    for other in ("reference", "gelu"):
        pair = (seconds[f"{other} forward+backward"], seconds["sine forward+backward"])
        record[f"ratio_{other}"] = ratio(*pair)
    return record


def forward_backward(function, g, *inputs):
    out, pull = jax.vjp(function, *inputs)
    return out, pull(g)


def step_profile(args: argparse.Namespace) -> dict[str, Any]:
    """Where the time of a train step goes: each part alone; with --trace also each operation."""
    state, step, tokens = train_setup(args)
    batch = packed(tokens)
    if args.trace:
        top = profile_step.traced(step, state, batch, runs=args.n)
        return {"results": top}
    optimizer = make_optimizer(OptimizerConfig(), 1000)
    parts = profile_step.parts(base_of(args), state.model, batch, optimizer)
    variants = {name: timed(run) for name, (_, run) in parts.items()}

    def whole():
        nonlocal state
        state, _ = step(state, batch)
        return state

    seconds = take_turns(variants | {"step": timed(whole)}, args.n, args.warmup)
    results = {name: summary(s) for name, s in seconds.items()}
    total = results["step"]["median_s"]
    for name, (count, _) in parts.items():
        results[name] |= {"count": count, "share": count * results[name]["median_s"] / total}
    return {"results": results}


BENCHMARKS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "train": train,
    "decode": decode,
    "sine": sine_op,
    "step-profile": step_profile,
    "bases": base_steps,
    "sparse": sparse,
    "B1": b1,
    "B2": b2,
    "B3": b3,
    "scans": scans,
    "scan-lengths": scan_lengths,
    "context": context,
    "attention": bench_attention.backends,
}
OWN_FLAGS = {
    **dict.fromkeys(("B1", "B2", "B3"), bench_groundthink.add_flags),
    **dict.fromkeys(("scans", "scan-lengths"), bench_scans.add_flags),
    "context": bench_scans.add_context_flags,
    "attention": bench_attention.add_flags,
}


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = root.add_subparsers(dest="id", required=True)
    for name, function in BENCHMARKS.items():
        p = commands.add_parser(name, help=function.__doc__.split("\n")[0])
        p.add_argument("--n", type=int, default=20, help="timed runs of each variant")
        p.add_argument("--warmup", type=int, default=3, help="runs before them")
        p.add_argument("--threads", type=int, default=2, help="cores of each side")
        p.add_argument("--keep-memory", action="store_true", help="no page faults, on both sides")
        p.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
        p.add_argument("--out", type=Path, help="file for the JSON, instead of stdout")
        if name in OWN_FLAGS:
            OWN_FLAGS[name](p)
        elif name in ("sine", "sparse"):
            p.add_argument("--rows", type=int, default=2048)
            p.add_argument("--features", type=int, default=1024)
        else:
            add_model_flags(p, {"decode": "decode", "bases": "long"}.get(name, "d256"))
    commands.choices["train"].add_argument("--compile", action="store_true")
    commands.choices["bases"].add_argument("--bases", default=",".join(NAMES))
    commands.choices["sparse"].add_argument("--k", type=int, default=8, help="connections")
    commands.choices["sparse"].add_argument("--radius", type=int, default=1)
    commands.choices["decode"].add_argument("--new-tokens", type=int, default=64)
    commands.choices["step-profile"].add_argument("--trace", action="store_true")
    return root


def add_model_flags(p: argparse.ArgumentParser, config: str) -> None:
    p.add_argument("--config", choices=CONFIGS, default=config, help="sizes, for those not given")
    for name in SIZES:
        p.add_argument(f"--{name.replace('_', '-')}", type=int)
    p.add_argument("--attention", choices=("math", "sdpa"), default="math", help="psannlm's")
    p.add_argument("--learning-rate", type=float, default=2e-4)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    args = parser().parse_args(argv)
    if "config" in args:
        for name, size in zip(SIZES, CONFIGS[args.config], strict=True):
            if getattr(args, name) is None:
                setattr(args, name, size)
    return args


def show(record: dict[str, Any]) -> None:
    """One row a variant: milliseconds, and tokens/s or share where there are any."""
    for name, row in record["results"].items():
        kinds = [k for k in ("median_s", "p10_s", "p90_s", "min_s", "seconds") if k in row]
        times = " ".join(f"{row[k] * 1e3:9.3f}" for k in kinds)
        tokens = f"{row['tokens_per_s']:9.0f} tokens/s" if "tokens_per_s" in row else ""
        share = f" x {row['count']} = {row['share']:5.1%} of the step" if "count" in row else ""
        own = " ".join(f"{k} {v:.4g}" for k, v in row.items() if k in OWN_FIGURES)
        line = f"{times} ms {tokens}{share}" if times else ""
        print(f"{record['id']:12} {name:24} {line} {own}", file=sys.stderr)
    for name in (n for n in record if n.startswith("ratio")):
        print(f"{name}: {record[name]['of_medians']:.3f} of medians", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Runs one benchmark; 1 where it has something to pass and does not."""
    args = arguments(argv)
    use_threads(args.threads)
    if args.keep_memory:
        keep_memory()
    config = {k: v for k, v in vars(args).items() if k not in ("id", "out", "n")}
    record = {"id": args.id, "config": config, "n": args.n, **machine()}
    record |= BENCHMARKS[args.id](args)
    text = json.dumps(record, indent=1, default=str)
    if args.out:
        args.out.write_text(text + "\n")
    else:
        print(text)
    show(record)
    return int(any(row.get("passed") is False for row in record["results"].values()))


if __name__ == "__main__":
    sys.exit(main())
