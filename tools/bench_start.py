"""Start-up: a new process until its first train step is done, with and without a compile cache."""

import argparse
import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmark import DTYPE, Benchmark, By
from timing import summary

SCRIPT = Path(__file__).with_name("first_step.py")


def start_up(args: argparse.Namespace) -> dict[str, Any]:
    """A new process until its first train step is done, with an empty compile cache and a full."""
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    parts: dict[str, dict[str, float]] = {}
    for _ in range(args.n):
        with tempfile.TemporaryDirectory() as cache:
            for name, taken in seconds.items():
                start = time.perf_counter()
                parts[name] = first_step(args.config, args.dtype, cache)
                taken.append(time.perf_counter() - start)
    return {"results": {name: summary(s) | parts[name] for name, s in seconds.items()}}


def first_step(config: str, dtype: str, cache: str) -> dict[str, float]:
    """What first_step.py says, with its compiled programs in the folder `cache`."""
    done = subprocess.run(
        [sys.executable, SCRIPT, config, dtype],
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


BENCHMARKS = {
    "B10": Benchmark(
        start_up,
        {**DTYPE, "config": By("tiny", "d256", "S"), "n": By(1, 3, 3), "warmup": None},
        has_children=True,
    )
}
