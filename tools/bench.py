"""Benchmarks: `.venv/bin/python tools/bench.py B1 --bases respsann,rwkv6`.

Prints one JSON object to stdout (or --out FILE), and rows for the eye to stderr. Sizes suit the
backend; `--scale tiny` only shows that a benchmark runs. `bench.py ID --help` lists the flags, and
their values where they are not given: one, or those at the scales tiny / cpu / accelerator.
"""

import argparse
import json
import os
from pathlib import Path
import re
import sys
from typing import Any

import bench_attention
import bench_cache
import bench_checkpoint
import bench_collectives
import bench_data
import bench_decode
import bench_forward
import bench_groundthink
import bench_kernels
import bench_profile
import bench_scans
import bench_seeds
import bench_sparse
import bench_start
import bench_torch
import bench_train
from benchmark import COMMON, SCALES, Benchmark, Flags, add_flags, settle
import jax
import limits
from model_sizes import SIZES, with_overrides
from timing import machine, use_threads

from psann_jax.run.environment import keep_memory

MODULES = (
    limits,
    bench_train,
    bench_torch,
    bench_forward,
    bench_start,
    bench_data,
    bench_decode,
    bench_cache,
    bench_checkpoint,
    bench_collectives,
    bench_kernels,
    bench_attention,
    bench_groundthink,
    bench_profile,
    bench_scans,
    bench_seeds,
    bench_sparse,
)
BENCHMARKS: dict[str, Benchmark] = {k: b for m in MODULES for k, b in m.BENCHMARKS.items()}
TIMES = ("median_s", "p10_s", "p90_s", "min_s")


def flags_of(name: str) -> Flags:
    flags = COMMON | BENCHMARKS[name].flags
    return {name: value for name, value in flags.items() if value is not None}


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = root.add_subparsers(dest="id", required=True)
    for name, benchmark in BENCHMARKS.items():
        p = commands.add_parser(name, help=title(benchmark))
        p.add_argument("--scale", choices=SCALES, help="of the sizes that are not given")
        p.add_argument("--out", type=Path, help="file for the JSON, instead of stdout")
        add_flags(p, flags_of(name))
    return root


def title(benchmark: Benchmark) -> str:
    return (benchmark.about or benchmark.run.__doc__).split("\n")[0]


def measured(argv: list[str]) -> dict[str, Any]:
    """The record of one benchmark."""
    args = parser().parse_args(argv)
    if BENCHMARKS[args.id].has_children:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if args.keep_memory:  # before JAX has threads, since each would have a heap of its own
        keep_memory()
    if args.scale is None:
        args.scale = "cpu" if jax.default_backend() == "cpu" else "accelerator"
    settle(args, flags_of(args.id), args.scale)
    command = re.sub(r" --out \S+", "", " ".join(argv))
    record = {"id": args.id, "command": command, "config": _described(args)}
    record |= {"n": args.n} if "n" in args else {}
    return record | machine() | BENCHMARKS[args.id].run(args)


def _described(args: argparse.Namespace) -> dict[str, Any]:
    """The flags, with the sizes behind each name."""
    config = {name: value for name, value in vars(args).items() if name not in ("id", "out", "n")}
    names = config.get("configs") or [config[k] for k in ("config",) if k in config]
    return config | {"sizes": {n: with_overrides(SIZES[n], args)._asdict() for n in names}}


def show(record: dict[str, Any]) -> None:
    """A line a row: milliseconds (median, p10, p90, least), and its other numbers."""
    for name, row in record["results"].items():
        times = " ".join(f"{row[k] * 1e3:9.3f}" for k in TIMES if k in row)
        others = {k: v for k, v in row.items() if k not in TIMES and not isinstance(v, dict)}
        own = "  ".join(f"{k} {v:.4g}" for k, v in others.items())
        print(f"{record['id']:5} {name:28} {times} {'ms ' if times else ''}{own}", file=sys.stderr)
    for name in (n for n in record if n.startswith("ratio")):
        print(f"{name}: {record[name]['of_medians']:.3f} of medians", file=sys.stderr)


def main() -> int:
    """Runs one benchmark; 1 where it has something to pass and does not."""
    args = parser().parse_args()
    use_threads(args.threads or COMMON["threads"])
    record = measured(sys.argv[1:])
    text = json.dumps(record, indent=1, default=str)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n")
    else:
        print(text)
    show(record)
    return int(any(row.get("passed") is False for row in record["results"].values()))


if __name__ == "__main__":
    sys.exit(main())
