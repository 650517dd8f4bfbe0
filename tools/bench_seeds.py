"""Several seeds of one base: a train step of each in turn, and one step of all of them."""

import argparse
from functools import partial
from typing import Any

from bench_train import SMALL
from benchmark import Benchmark, By
import jax
import jax.numpy as jnp
import limits
from model_sizes import base_of, sizes_of
from timing import ratio, summary, take_turns, timed
from trainer import Trainer, packed, random_tokens

from psann_jax.train.step import train_step


def by_seeds(args: argparse.Namespace) -> dict[str, Any]:
    """Train steps of several seeds, one after the other and as one program that vmap makes."""
    sizes = sizes_of(args)
    base, batch = base_of(args.base, sizes, args.dtype), packed(random_tokens(sizes))
    trainers = [Trainer(base, batch) for _ in range(args.seeds)]
    together = _Together(trainers)
    machine = limits.measured(args)
    variants = {
        "one by one": timed(lambda: [trainer.step() for trainer in trainers]),
        "vmap": timed(together.step),
    }
    seconds = take_turns(variants, args.n, args.warmup)
    tokens = args.seeds * trainers[0].tokens
    rows = {name: summary(s, tokens) for name, s in seconds.items()}
    losses = {"one by one": float(trainers[0].loss), "vmap": float(together.loss[0])}
    return {
        "results": machine | {name: row | {"loss": losses[name]} for name, row in rows.items()},
        "ratio one by one / vmap": ratio(seconds["one by one"], seconds["vmap"]),
    }


class _Together:
    """The same states, stacked, and their step."""

    def __init__(self, trainers: list[Trainer]):
        first = trainers[0]
        self.state = jax.tree.map(lambda *a: jnp.stack(a), *(t.state for t in trainers))
        self.batch, self.loss = first.batch, jnp.nan
        step = jax.vmap(partial(train_step, optimizer=first.optimizer), in_axes=(0, None))
        with jax.default_matmul_precision("highest" if first.dtype == "float32" else "default"):
            jitted = jax.jit(step, donate_argnums=0)
            self.program = jitted.lower(self.state, self.batch).compile()

    def step(self) -> jax.Array:
        """One update of each; their losses."""
        self.state, metrics = self.program(self.state, self.batch)
        self.loss = metrics["loss"]
        return self.loss


FLAGS = {**SMALL, "base": "respsann", "seeds": By(2, 3, 8), "config": By("tiny", "d128", "d256")}
BENCHMARKS = {"seeds": Benchmark(by_seeds, FLAGS)}
