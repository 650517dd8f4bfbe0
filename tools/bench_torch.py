"""Train steps beside PyTorch's, in turns: psannlm from the same weights, and a plain GPT-2."""

import argparse
from functools import partial
from typing import Any

from benchmark import Benchmark, By, Flags
import jax
import limits
from model_sizes import OVERRIDES, SIZES, base_of, widths, with_overrides
import numpy as np
from peer import Request, started
from timing import Variant, ratio, summary, take_turns
from trainer import Trainer, packed, random_tokens

from psann_jax.interop import psannlm
from psann_jax.run.environment import KEEP_MEMORY
from psann_jax.train.optimizer import OptimizerConfig

MODES = ("eager", "compile")
FLAGS: Flags = {
    **limits.FLAGS,
    **OVERRIDES,
    "n": By(2, 7, 6),
    "warmup": By(1, 3, 2),
    "modes": MODES,  # of PyTorch
    "dtypes": By(("float32",), ("float32", "bfloat16"), ("bfloat16",)),
    "learning_rate": 2e-4,
}


def beside_psannlm(args: argparse.Namespace) -> dict[str, Any]:
    """The train step of ResPSANN beside psannlm's, eager and compiled, from the same weights."""
    # psannlm decays every parameter; a constant rate, so that losses can be compared.
    rate = args.learning_rate
    config = OptimizerConfig(learning_rate=rate, min_lr=rate, warmup_steps=0, decay="all")
    record: dict[str, Any] = {"results": limits.measured(args, *args.dtypes)}
    for name in args.configs:
        sizes = with_overrides(SIZES[name], args)
        for dtype in args.dtypes:
            tokens = random_tokens(sizes)
            trainer = Trainer(base_of("respsann", sizes, dtype), packed(tokens), config)
            weights = psannlm.to_state(trainer.state.model)
            trainer.step()  # a peer makes its first step when it starts
            form = {"positional_encoding": "rope", "attn_impl": args.attention}
            own = {"task": "train", "learning_rate": rate}
            asked = asked_of(args, widths(sizes) | form, tokens, dtype, **own)
            requests = {f"psannlm {mode}": r for mode, r in by_mode(args, asked).items()}
            with started("peer_psannlm.py", requests, weights) as (peers, missing):
                compare(record, args, f"{name} {dtype}", {"psann_jax": trainer}, peers, missing)
            del trainer
    return record


def beside_gpt2(args: argparse.Namespace) -> dict[str, Any]:
    """The train step of bases with a tied head beside a GPT-2 of the same sizes in PyTorch."""
    sizes = with_overrides(SIZES[args.config], args)
    tokens = random_tokens(sizes)
    record: dict[str, Any] = {"results": limits.measured(args, *args.dtypes)}
    for dtype in args.dtypes:
        trainers = {}
        for name in args.bases:
            base = base_of(name, sizes, dtype, tie_embeddings=True)
            trainers[name] = Trainer(base, packed(tokens))
            trainers[name].step()
        asked = asked_of(args, sizes._asdict(), tokens, dtype, learning_rate=args.learning_rate)
        requests = {f"gpt2 {mode}": r for mode, r in by_mode(args, asked).items()}
        with started("peer_gpt2.py", requests, {}, ("torch",)) as (peers, missing):
            compare(record, args, f"{args.config} {dtype}", trainers, peers, missing)
    return record


def asked_of(
    args: argparse.Namespace, config: dict[str, Any], tokens: np.ndarray, dtype: str, **own: Any
) -> Request:
    """What every peer that is given tokens needs, but for "compile"."""
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    return {
        "config": config,
        "tokens": tokens.tolist(),
        "dtype": dtype,
        "device": device,
        "threads": args.threads,
        "mallopt": KEEP_MEMORY if args.keep_memory else (),
        **own,
    }


def by_mode(args: argparse.Namespace, asked: Request) -> dict[str, Request]:
    return {mode: asked | {"compile": mode == "compile"} for mode in args.modes}


def compare(
    record: dict[str, Any],
    args: argparse.Namespace,
    group: str,
    trainers: dict[str, Trainer],
    peers: dict[str, Any],
    missing: dict[str, str],
) -> None:
    """Times all in turns, and adds rows, ratios to the first of ours, and versions to `record`."""
    variants: dict[str, Variant] = {n: t.variant(args.window) for n, t in trainers.items()}
    variants |= {name: partial(peer.run, args.window) for name, peer in peers.items()}
    seconds = take_turns(variants, args.n, args.warmup)
    first, ours = next(iter(trainers.items()))
    machine, results = dict(record["results"]), record["results"]
    for name, trainer in trainers.items():
        results[f"{group} {name}"] = trainer.row(seconds[name], machine)
    for name, peer in peers.items():
        row = summary(seconds[name], ours.tokens) | {"loss": peer.last["loss"]}
        row = limits.shares(row, machine, ours.dtype, flops=ours.flops)
        results[f"{group} {name}"] = row | {"first_run_s": peer.info["first_run_s"]}
        record[f"ratio {group} {name} / {first}"] = ratio(seconds[name], seconds[first])
        record["peer"] = {k: v for k, v in peer.info.items() if k in ("torch", "psannlm")}
    if missing:
        record.setdefault("missing", {}).update({f"{group} {n}": w for n, w in missing.items()})


BENCHMARKS = {
    "B2": Benchmark(
        beside_gpt2,
        {
            **FLAGS,
            "config": By("tiny", "d256", "M50"),
            "dtypes": By(("float32",), ("float32",), ("bfloat16",)),
            "bases": ("transformer", "respsann"),
            "batch": By(0, 0, 32),
        },
        has_children=True,
    ),
    "B8": Benchmark(
        beside_psannlm,
        {
            **FLAGS,
            "configs": By(("tiny",), ("d256",), ("S", "M")),
            "attention": "sdpa",  # psannlm's
            "batch": By(0, 0, 16),
        },
        has_children=True,
    ),
    "B15": Benchmark(
        beside_psannlm,
        {
            **FLAGS,
            "configs": By(("tiny",), ("d256", "d512"), ("d256", "d512")),
            "attention": "sdpa",
        },
        has_children=True,
        about="What B8 measures, at two sizes that suit a CPU.",
    ),
}
