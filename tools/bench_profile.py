"""Where the time of a train step goes."""

import argparse
from typing import Any

from benchmark import DTYPE, Benchmark, By
from model_sizes import OVERRIDES, base_of, sizes_of
import profile_step
from timing import summary, take_turns, timed
from trainer import Trainer, packed, random_tokens


def step_profile(args: argparse.Namespace) -> dict[str, Any]:
    """Where the time of a train step goes: each part alone; with --trace also each operation."""
    sizes = sizes_of(args)
    base = base_of("respsann", sizes, args.dtype)
    trainer = Trainer(base, packed(random_tokens(sizes)))
    if args.trace:
        top = profile_step.traced(trainer.program, trainer.state, trainer.batch, runs=args.n)
        return {"results": top}
    parts = profile_step.parts(base, trainer.state.model, trainer.batch, trainer.optimizer)
    variants = {name: timed(run) for name, (_, run) in parts.items()}
    seconds = take_turns(variants | {"step": trainer.variant()}, args.n, args.warmup)
    results: dict[str, Any] = {name: summary(s) for name, s in seconds.items()}
    total = results["step"]["median_s"]
    for name, (count, _) in parts.items():
        results[name] |= {"count": count, "share": count * results[name]["median_s"] / total}
    return {"results": results}


BENCHMARKS = {
    "step-profile": Benchmark(
        step_profile,
        {**OVERRIDES, **DTYPE, "config": By("tiny", "d256", "S"), "trace": False},
    )
}
