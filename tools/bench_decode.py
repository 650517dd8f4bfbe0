"""Decoding: by batch and prompt against the bytes it has to read, and beside psannlm's."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmark import DTYPE, Benchmark, By, Flags
import jax
import limits
from model_sizes import OVERRIDES, base_of, sizes_of, widths
import numpy as np
from peer import started
from timing import ratio, summary, take_turns, timed
from trainer import fresh_model

from psann_jax.infer.decode import decoding_model, generate
from psann_jax.infer.sampling import Sampling
from psann_jax.interop import psannlm
from psann_jax.model import LM
from psann_jax.run.environment import KEEP_MEMORY

FLAGS: Flags = {**OVERRIDES, "new_tokens": By(4, 64, 256), "n": By(2, 10, 10)}


def by_batch(args: argparse.Namespace) -> dict[str, Any]:
    """Greedy decoding by batch and prompt, prefill included, against the bytes of each step."""
    sizes = sizes_of(args)
    model = fresh_model(base_of(args.base, sizes, args.dtype))
    runs, moved = {}, {}
    for prompt in args.prompts:
        for batch in args.batches:
            name = f"B {batch} prompt {prompt}"
            prompts = _prompts(batch, prompt, sizes.vocab_size)
            runs[name] = batch, timed(_greedy(model, prompts, args.new_tokens), args.window)
            context = prompt + args.new_tokens // 2
            moved[name] = args.new_tokens * step_bytes(model, batch, context)
    results: dict[str, Any] = limits.measured(args)
    machine = dict(results)
    seconds = take_turns({name: run for name, (_, run) in runs.items()}, args.n, args.warmup)
    for name, taken in seconds.items():
        row = summary(taken, runs[name][0] * args.new_tokens)
        results[name] = limits.shares(row, machine, args.dtype, moved=moved[name])
    return {"results": results}


def step_bytes(model: LM, batch: int, context: int) -> int:
    """Bytes that a decoded token of `batch` rows has to read: weights, and states at `context`."""

    def read(model):
        decoded = decoding_model(model)
        if model.head is not None:
            decoded.embed = None  # a lookup
        return decoded, model.init_state(batch, context)

    arrays = jax.tree.leaves(jax.eval_shape(read, model))
    return sum(a.size * a.dtype.itemsize for a in arrays)


def beside_psannlm(args: argparse.Namespace) -> dict[str, Any]:
    """Greedy decoding of a batch in float32 with a cache, beside psannlm's generate_batch."""
    sizes = sizes_of(args)
    model = fresh_model(base_of("respsann", sizes, "float32"))
    prompts = _prompts(sizes.batch, sizes.length, sizes.vocab_size)
    ours = _greedy(model, prompts, args.new_tokens)
    asked = {
        "task": "decode",
        "config": widths(sizes) | {"positional_encoding": "rope", "attn_impl": args.attention},
        "threads": args.threads,
        "device": "cuda" if jax.default_backend() == "gpu" else "cpu",
        "mallopt": KEEP_MEMORY if args.keep_memory else (),
        "prompts": prompts,
        "new_tokens": args.new_tokens,
    }
    weights = psannlm.to_state(model)
    with started("peer_psannlm.py", {"psannlm": asked}, weights) as (peers, missing):
        variants = {"psann_jax": timed(ours)} | {name: p.run for name, p in peers.items()}
        seconds = take_turns(variants, args.n, args.warmup)
        tokens = sizes.batch * args.new_tokens
        record: dict[str, Any] = {"results": {n: summary(s, tokens) for n, s in seconds.items()}}
        for name, peer in peers.items():
            record["ratio psannlm / psann_jax"] = ratio(seconds[name], seconds["psann_jax"])
            record["same_tokens"] = float(np.mean(np.equal(ours(), peer.last["tokens"])))
            record["peer"] = {k: v for k, v in peer.info.items() if k in ("torch", "psannlm")}
    return record | ({"missing": missing} if missing else {})


def _prompts(batch: int, length: int, vocabulary: int) -> list[list[int]]:
    return np.random.default_rng(0).integers(0, vocabulary, (batch, length)).tolist()


def _greedy(model: LM, prompts: list[list[int]], new_tokens: int) -> Callable[[], list[list[int]]]:
    greedy = Sampling(temperature=0.0)
    return partial(generate, model, prompts, max_new_tokens=new_tokens, sampling=greedy)


BENCHMARKS = {
    "B13": Benchmark(
        by_batch,
        {
            **limits.FLAGS,
            **FLAGS,
            **DTYPE,
            "window": 1,
            "config": By("tiny", "d256", "S"),
            "base": "respsann",
            "batches": By((1, 2), (1, 8), (1, 8, 64, 256)),
            "prompts": By((4,), (96,), (96, 1024)),
        },
    ),
    "B14": Benchmark(
        beside_psannlm,
        {**FLAGS, "config": By("tiny", "decode", "decode"), "attention": "math"},
        has_children=True,
    ),
}
