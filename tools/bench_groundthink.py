"""GroundThink's benchmarks G-B1 (speed), G-B2 (memory), G-B3 (stability), of any preset or base."""

import argparse
from functools import partial
import time
from typing import Any

from benchmark import DTYPE, UNTIMED, Benchmark, By, Flags
import jax
import numpy as np
from timing import summary, take_turns, timed

from psann_jax import bases, sharding
from psann_jax.compiling import jit
from psann_jax.config import Config
from psann_jax.data import DataConfig, batches, prepare
from psann_jax.model import LM, parameter_count
from psann_jax.run.memory import memory_bytes
from psann_jax.seq import Batch
from psann_jax.train.config import TrainConfig
from psann_jax.train.feed import on_mesh
from psann_jax.train.optimizer import OptimizerConfig, make_optimizer
from psann_jax.train.state import init_state
from psann_jax.train.step import eval_step, jit_train_step


class Setup:
    """A preset with its optimizer on real rows of characters, and its two compiled programs."""

    def __init__(self, args: argparse.Namespace):
        self.corpus = prepare(
            DataConfig(
                sources=args.text,
                tokenizer="groundthink-char",
                max_length=args.length,
                val_split=0.0,
            )
        )
        vocabulary = self.corpus.tokenizer.vocab_size
        fields = {"vocab_size": vocabulary, "dtype": args.dtype}
        if args.n_layers:
            fields["n_layers"] = args.n_layers
        base = bases.preset(args.preset, **fields)
        self.config = Config(
            base=base,
            optimizer=OptimizerConfig(learning_rate=args.learning_rate),
            train=TrainConfig(steps=args.steps, batch_tokens=args.batch * args.length),
            data=DataConfig(max_length=args.length),
        )
        self.mesh = sharding.make_mesh(devices=jax.devices()[:1])
        optimizer = make_optimizer(self.config.optimizer, args.steps)
        self.state, where = init_state(lambda r: LM(base, rngs=r), optimizer, self.mesh, seed=0)
        rows = batches(self.corpus.train, batch_rows=args.batch, seed=0)
        self.rows = (on_mesh(batch, self.mesh, 1) for batch in rows)
        self.batch: Batch = next(self.rows)
        only = jax.tree.map(lambda a: a[0], self.batch)
        lowered = {
            "forward": (jit(eval_step), (self.state.model, only)),
            "train step": (jit_train_step(optimizer, where), (self.state, self.batch)),
        }
        self.compile_seconds, self.programs = {}, {}
        for name, (function, inputs) in lowered.items():
            start = time.perf_counter()
            self.programs[name] = function.lower(*inputs).compile()
            self.compile_seconds[name] = time.perf_counter() - start
        self.forward = partial(self.programs["forward"], self.state.model, only)

    def step(self) -> dict[str, jax.Array]:
        """One update on the batch at hand; the model of `forward` is gone after it."""
        self.state, metrics = self.programs["train step"](self.state, self.batch)
        return metrics

    def described(self) -> dict[str, Any]:
        return {
            "parameters": parameter_count(self.state.model),
            "vocab_size": self.config.base.vocab_size,
            "compile_s": self.compile_seconds,
        }


def speed(args: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of the forward pass and of the train step, each synchronised."""
    setup = Setup(args)
    tokens = args.batch * args.length
    # One after the other: a step takes the forward pass's weights with it.
    seconds = take_turns({"forward": timed(setup.forward)}, args.n, args.warmup)
    seconds |= take_turns({"train step": timed(setup.step)}, args.n, args.warmup)
    return {
        "results": {name: summary(s, tokens) for name, s in seconds.items()},
        **setup.described(),
    }


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Bytes that the forward pass and the train step need, as compiled, and the peak."""
    setup = Setup(args)
    results = {}
    for name, program in setup.programs.items():
        analysis = program.memory_analysis()
        arguments, temporary = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
        results[name] = {
            "argument_bytes": arguments,
            "temporary_bytes": temporary,
            "bytes_per_token": temporary / (args.batch * args.length),
        }
    jax.block_until_ready(setup.step())
    return {"results": results, "memory_bytes": memory_bytes(), **setup.described()}


def stability(args: argparse.Namespace) -> dict[str, Any]:
    """100 AdamW steps on text: the loss has to fall, and no number may be lost."""
    setup, losses, norms = Setup(args), [], []
    for _ in range(args.steps):
        metrics = setup.step()
        losses.append(float(metrics["loss"]))
        norms.append(float(metrics["grad_norm"]))
        setup.batch = next(setup.rows)
    tenth = max(1, args.steps // 10)
    start, end = np.mean(losses[:tenth]), np.mean(losses[-tenth:])
    finite = bool(np.isfinite(losses).all() and np.isfinite(norms).all())
    found = {
        "loss_start": float(start),
        "loss_end": float(end),
        "loss_change": float(end - start),
        "mean_grad_norm": float(np.mean(norms)),
        "passed": finite and bool(end < start),
    }
    return {"results": {"stability": found}, **setup.described()}


FLAGS: Flags = {
    **DTYPE,
    "preset": By("1M", "5M", "5M"),  # as bases.preset knows them
    "n_layers": By(1, 0, 0),  # 0: the preset's
    "batch": By(2, 8, 8),
    "length": By(8, 64, 64),
    "steps": By(3, 100, 100),  # of G-B3
    "learning_rate": 3e-4,
    "text": (),  # files; none: the embedded text
}
BENCHMARKS = {
    "G-B1": Benchmark(speed, FLAGS),
    "G-B2": Benchmark(memory, FLAGS | UNTIMED),
    "G-B3": Benchmark(stability, FLAGS | UNTIMED),
}
