"""What saving a checkpoint costs the steps that go on meanwhile."""

import argparse
from pathlib import Path
import tempfile
import time
from typing import Any

from benchmark import DTYPE, Benchmark, By
import jax
from model_sizes import OVERRIDES, base_of, sizes_of
import numpy as np
from timing import summary, take_turns
from trainer import Trainer, packed, random_tokens

from psann_jax.train.checkpoint import Checkpoints
from psann_jax.train.state import flat_arrays


def stall(args: argparse.Namespace) -> dict[str, Any]:
    """Time that steps lose to a checkpoint: the call of the save, and slower steps after it."""
    sizes = sizes_of(args)
    trainer = Trainer(base_of("respsann", sizes, args.dtype), packed(random_tokens(sizes)))
    step = trainer.variant()
    alone = take_turns({"step": step}, max(args.n, args.steps), args.warmup)["step"]
    calls, during, committed = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder))
        for _ in range(args.n):
            start = time.perf_counter()
            checkpoints.save(trainer.state)
            calls.append(time.perf_counter() - start)
            during.append([step() for _ in range(args.steps)])
            checkpoints.wait()
            committed.append(time.perf_counter() - start)
        checkpoints.close()
    usual = float(np.median(alone))
    pairs = zip(calls, during, strict=True)
    lost = [call + sum(steps) - args.steps * usual for call, steps in pairs]
    saved = sum(a.nbytes for a in jax.tree.leaves(flat_arrays(trainer.state)))
    results = {
        "step": summary(alone),
        "step while saving": summary([s for steps in during for s in steps]),
        "call of the save": summary(calls),
        "until it is committed": summary(committed),
        "stall": summary(lost) | {"steps_lost": float(np.median(lost)) / usual},
    }
    return {"results": results, "checkpoint_bytes": saved}


BENCHMARKS = {
    "B16": Benchmark(
        stall,
        {
            **OVERRIDES,
            **DTYPE,
            "config": By("tiny", "d256", "S"),
            "n": By(2, 5, 5),  # saves
            "steps": By(2, 8, 20),  # timed after the call of each
        },
    )
}
