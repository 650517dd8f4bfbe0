"""The forward pass alone at the sizes of psannlm's throughput script, and training at those."""

import argparse
from functools import partial
from typing import Any

from bench_torch import asked_of, by_mode
from benchmark import Benchmark, By
import jax
import limits
from model_sizes import OVERRIDES, Sizes, base_of, sizes_of, widths
from peer import started
from timing import ratio, summary, take_turns, timed
from trainer import Trainer, fresh_model, packed, random_tokens

from psann_jax.interop import psannlm
from psann_jax.model import flops_per_token

PUBLISHED = 614_749.6  # tokens/s of psannlm, float32, on one H200 GPU, as its report says


def forward(args: argparse.Namespace) -> dict[str, Any]:
    """Logits of every token, without loss or gradient, beside psannlm's; and our train step."""
    sizes = sizes_of(args)
    tokens = random_tokens(sizes)[:, :-1]
    record: dict[str, Any] = {"results": limits.measured(args, *args.dtypes)}
    machine, results = dict(record["results"]), record["results"]
    for dtype in args.dtypes:
        run, weights, flops = _ours(sizes, tokens, dtype)
        form = {"positional_encoding": "rope", "attn_impl": args.attention}
        asked = asked_of(args, widths(sizes) | form, tokens, dtype, task="forward")
        requests = {f"psannlm {mode}": r for mode, r in by_mode(args, asked).items()}
        with started("peer_psannlm.py", requests, weights) as (peers, missing):
            variants = {"psann_jax": timed(run, args.window)}
            variants |= {name: partial(peer.run, args.window) for name, peer in peers.items()}
            seconds = take_turns(variants, args.n, args.warmup)
            for name, taken in seconds.items():
                row = summary(taken, tokens.size)
                row["of_published"] = row["tokens_per_s"] / PUBLISHED
                results[f"{dtype} {name}"] = limits.shares(row, machine, dtype, flops=flops)
            ours = seconds["psann_jax"]
            for name, peer in peers.items():
                record[f"ratio {dtype} {name} / psann_jax"] = ratio(seconds[name], ours)
                record["peer"] = {k: v for k, v in peer.info.items() if k in ("torch", "psannlm")}
            record.setdefault("missing", {}).update({f"{dtype} {n}": w for n, w in missing.items()})
    return record | {"results": results | _trained(args, sizes, machine)}


def _ours(sizes: Sizes, tokens: Any, dtype: str):
    """A compiled forward pass, its weights under psannlm's names, and its operations."""
    base = base_of("respsann", sizes, dtype)
    model = fresh_model(base)
    weights = psannlm.to_state(model)
    placed = jax.device_put(tokens)
    with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
        program = jax.jit(lambda m, t: m(t)[0]).lower(model, placed).compile()
    flops = tokens.size * flops_per_token(model, base, tokens.shape[1]) / 3
    return partial(program, model, placed), weights, flops


def _trained(args: argparse.Namespace, sizes: Sizes, machine: limits.Limits) -> dict[str, Any]:
    rows = {}
    for dtype in args.dtypes:
        trainer = Trainer(base_of("respsann", sizes, dtype), packed(random_tokens(sizes)))
        variants = {"train": trainer.variant(args.window)}
        seconds = take_turns(variants, args.n, args.warmup)["train"]
        rows[f"{dtype} train step"] = trainer.row(seconds, machine)
    return rows


BENCHMARKS = {
    "B7": Benchmark(
        forward,
        {
            **limits.FLAGS,
            **OVERRIDES,
            "config": By("tiny", "forward-cpu", "forward"),
            "dtypes": By(("float32",), ("float32", "bfloat16"), ("float32", "bfloat16")),
            "modes": ("eager",),  # of PyTorch; its own script compiles nothing
            "attention": "math",
            "n": By(2, 7, 10),
        },
        has_children=True,
    )
}
