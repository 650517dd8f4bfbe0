"""Benchmarks of our own train step: by base, by length, by batch, by depth, and its memory."""

import argparse
import dataclasses
import statistics
from typing import Any
from unittest import mock

from benchmark import DTYPE, UNTIMED, Benchmark, By, Flags
import jax.numpy as jnp
import limits
from model_sizes import OVERRIDES, Sizes, base_of, sizes_of
import numpy as np
import optax
from timing import ratio, take_turns, timed
from trainer import Trainer, packed, random_tokens

from psann_jax import bases
from psann_jax.bases import Base
from psann_jax.nn.sine import SineConfig
from psann_jax.ops.cross_entropy import linear_cross_entropy
from psann_jax.run.dry_run import program_bytes, saved_bytes
from psann_jax.run.memory import memory_bytes
from psann_jax.train import step as train_steps

FLAGS: Flags = {**limits.FLAGS, **OVERRIDES, **DTYPE}
SMALL: Flags = {**FLAGS, "config": By("tiny", "d128", "S"), "n": By(2, 7, 6), "warmup": By(1, 3, 2)}

BASES = ("respsann", *(name for name in bases.names() if name != "respsann"))
BY_BASE: Flags = {
    **SMALL,
    "document": 0,  # tokens of a document; 0: a row
    "remat": "none",
    "scan_layers": False,
}


def by_base(args: argparse.Namespace) -> dict[str, Any]:
    """The train step of bases at the same sizes, in turns."""
    sizes = sizes_of(args)
    batch = packed(random_tokens(sizes), args.document)
    trainers = {}
    for name in args.bases:
        base = base_of(name, sizes, args.dtype, remat=args.remat, scan_layers=args.scan_layers)
        trainers[name] = Trainer(base, batch)
    machine = limits.measured(args)
    variants = {name: trainer.variant(args.window) for name, trainer in trainers.items()}
    seconds = take_turns(variants, args.n, args.warmup)
    rows = {name: trainers[name].row(s, machine) for name, s in seconds.items()}
    first, *others = seconds
    ratios = {f"ratio {name} / {first}": ratio(seconds[name], seconds[first]) for name in others}
    return {"results": machine | rows, **ratios}


def by_activation(args: argparse.Namespace) -> dict[str, Any]:
    """The train step of ResPSANN with all of the sine learned, with none, and with a GELU."""
    sizes = sizes_of(args)
    learned = base_of("respsann", sizes, args.dtype)
    fixed = dataclasses.replace(learned, sine=SineConfig(learnable=()))
    cases = {
        "learned sine": learned,
        "fixed sine": fixed,
        "gelu": base_of("respsann", sizes, args.dtype, mlp_activation="gelu"),
    }
    batch = packed(random_tokens(sizes))
    trainers = {name: Trainer(base, batch) for name, base in cases.items()}
    machine = limits.measured(args)
    seconds = take_turns(
        {n: t.variant(args.window) for n, t in trainers.items()}, args.n, args.warmup
    )
    rows = {name: trainers[name].row(s, machine) for name, s in seconds.items()}
    learned_s = seconds["learned sine"]
    others = ("fixed sine", "gelu")
    ratios = {f"ratio learned sine / {n}": ratio(learned_s, seconds[n]) for n in others}
    return {"results": machine | rows, **ratios}


def by_length(args: argparse.Namespace) -> dict[str, Any]:
    """The train step at the same number of tokens in rows of growing length, and its memory."""
    cases = {f"T {n}": _rows(args, n, args.tokens // n) for n in args.lengths}
    return _one_by_one(args, cases)


def by_batch(args: argparse.Namespace) -> dict[str, Any]:
    """The train step at growing numbers of tokens a step, and its memory."""
    length = sizes_of(args).length
    cases = {f"{n} tokens": _rows(args, length, n // length) for n in args.step_tokens}
    record = _one_by_one(args, cases)
    rows = [record["results"][name] for name in cases]
    plateau = max(row["tokens_per_s"] for row in rows)
    for row in rows:
        row["of_plateau"] = row["tokens_per_s"] / plateau
    return record


def _rows(args: argparse.Namespace, length: int, batch: int) -> tuple[Base, Sizes]:
    sizes = sizes_of(args)._replace(length=length, batch=max(1, batch))
    return base_of("respsann", sizes, args.dtype), sizes


def by_depth(args: argparse.Namespace) -> dict[str, Any]:
    """The train step by the number of layers, each compiled apart and as one scan."""
    cases = {}
    for name, scan_layers in {"unrolled": False, "scanned": True}.items():
        for layers in args.layers:
            sizes = sizes_of(args)._replace(n_layers=layers)
            base = base_of("respsann", sizes, args.dtype, scan_layers=scan_layers)
            cases[f"{name} L {layers}"] = base, sizes
    record = _one_by_one(args, cases)
    for name in ("unrolled", "scanned"):
        times = [record["results"][f"{name} L {n}"]["median_s"] for n in args.layers]
        slope, start = np.polyfit(args.layers, times, 1)
        line = slope * np.array(args.layers) + start
        record[f"{name}_s_per_layer"] = float(slope)
        record[f"{name}_off_the_line"] = float(np.max(np.abs(times - line) / line))
    return record


def _one_by_one(args: argparse.Namespace, cases: dict[str, tuple[Base, Sizes]]) -> dict[str, Any]:
    """Not in turns, so that only one program's memory is held at a time."""
    results: dict[str, Any] = limits.measured(args)
    machine = dict(results)
    for name, (base, sizes) in cases.items():
        trainer = Trainer(base, packed(random_tokens(sizes)))
        seconds = take_turns({name: trainer.variant(args.window)}, args.n, args.warmup)[name]
        results[name] = trainer.row(seconds, machine) | _memory(trainer)
        del trainer
    return {"results": results}


def _memory(trainer: Trainer) -> dict[str, float]:
    needed = program_bytes(trainer.program)
    return {"program_bytes": needed, "program_bytes_per_token": needed / trainer.tokens}


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Memory of the train step as compiled, what is kept for the gradient, and the peak so far."""
    return {"results": {f"remat {remat}": _memory_of(args, remat) for remat in args.remats}}


def step_memory(args: argparse.Namespace) -> dict[str, Any]:
    """Memory of the train step as compiled for many rows; the loss of one layer on two of them."""
    sizes, results = sizes_of(args), {}
    for name, (loss, remat) in {
        "whole logits": (_whole_cross_entropy, "none"),
        "chunks": (linear_cross_entropy, "none"),
        "chunks, remat dots": (linear_cross_entropy, "dots"),
        "chunks, remat full": (linear_cross_entropy, "full"),
    }.items():
        with mock.patch.object(train_steps, "linear_cross_entropy", loss):
            base = base_of("respsann", sizes, args.dtype, remat=remat)
            one = dataclasses.replace(base, n_layers=1)
            lost = float(Trainer(one, packed(random_tokens(sizes._replace(batch=2)))).step())
            many = Trainer(base, packed(random_tokens(sizes)))
        results[name] = _memory(many) | {"loss": lost}
        del many
    first = results["whole logits"]["program_bytes"]
    for row in results.values():
        row["of_whole"] = row["program_bytes"] / first
    return {"results": results}


def _whole_cross_entropy(x, kernel, targets, weights, *, label_smoothing: float):
    """As the chunked one, with logits [B, T, V] and the gradient of autodiff."""
    kernel = kernel.astype(x.dtype)
    logits = jnp.dot(x, kernel, preferred_element_type=jnp.float32)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.sum(weights * nats)


def _memory_of(args: argparse.Namespace, remat: str) -> dict[str, float]:
    """The peak is that of the process so far: a row's own where it is larger than the last."""
    sizes = sizes_of(args)
    base = base_of("respsann", sizes, args.dtype, remat=remat)
    trainer = Trainer(base, packed(random_tokens(sizes)))
    (seconds,) = take_turns({remat: timed(trainer.step)}, 7, warmup=2).values()
    kept = saved_bytes(trainer.state.model, sizes.batch, sizes.length)
    return _memory(trainer) | {
        "residual_bytes": kept,
        "residual_bytes_per_token": kept / trainer.tokens,
        "peak_bytes": memory_bytes(),
        "median_s": statistics.median(seconds),
    }


BENCHMARKS = {
    "B1": Benchmark(
        by_base,
        {
            **BY_BASE,
            "bases": By(("respsann", "rwkv6"), BASES, BASES),
        },
    ),
    "B3": Benchmark(
        by_base,
        {
            **BY_BASE,
            "config": By("tiny", "d256", "L"),
            "bases": ("respsann",),
            "scan_layers": By(False, False, True),
        },
        about="The train step of a deep model, of 1.3 billion parameters on an accelerator.",
    ),
    "B4": Benchmark(
        by_length,
        {
            **SMALL,
            "lengths": By((16, 32), (128, 256, 512, 1024), (512, 1024, 2048, 4096, 8192)),
            "tokens": By(64, 2048, 131_072),  # a step
        },
    ),
    "B5": Benchmark(
        by_batch,
        {
            **SMALL,
            "step_tokens": By(
                (32, 64), (512, 1024, 2048, 4096), tuple(2**n for n in range(12, 19))
            ),
        },
    ),
    "B6": Benchmark(
        by_depth,
        {**SMALL, "layers": By((1, 2), (2, 4, 8), (2, 4, 8, 16, 32)), "batch": By(0, 0, 16)},
    ),
    "activations": Benchmark(
        by_activation,
        {**FLAGS, "config": By("tiny", "d256", "S"), "n": By(2, 30, 20)},
    ),
    "step-memory": Benchmark(
        step_memory,
        {
            **OVERRIDES,
            **DTYPE,
            **UNTIMED,
            "config": By("tiny", "S", "S"),
            "dtype": By("float32", "bfloat16", "bfloat16"),
        },
    ),
    "B9": Benchmark(
        memory,
        {
            **OVERRIDES,
            **DTYPE,
            **UNTIMED,
            "config": SMALL["config"],
            "remats": ("full", "dots", "none"),  # by growing memory, for the peak
        },
    ),
}
