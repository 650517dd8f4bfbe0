"""Timing on machines that others use too: variants take turns, so all see the same noise."""

from collections.abc import Callable
import datetime
import os
import platform
import time
from typing import Any

import flax
import jax
import numpy as np
import optax

from psann_jax.run.environment import processor

SETTLE = 0.01  # seconds between turns, in which the last one's spinning threads fall asleep

Variant = Callable[[], float]  # runs, returns the seconds of one run


def timed(run: Callable[[], Any], window: int = 1) -> Variant:
    """A variant that calls `run` so often, then waits for its arrays; seconds a call."""

    def once() -> float:
        start = time.perf_counter()
        for _ in range(window):
            out = run()
        jax.block_until_ready(out)
        return (time.perf_counter() - start) / window

    return once


def take_turns(variants: dict[str, Variant], n: int, warmup: int = 3) -> dict[str, list[float]]:
    """Seconds of n runs of each variant, one of each a round, in alternating order."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(-warmup, n):
        order = list(variants) if turn % 2 else list(reversed(variants))
        for name in order:
            time.sleep(SETTLE)
            taken = variants[name]()
            if turn >= 0:
                seconds[name].append(taken)
    return seconds


def summary(seconds: list[float], tokens: int | None = None) -> dict[str, float]:
    """Median, p10 and p90 in seconds; with `tokens` a run also tokens/s at the median."""
    p10, median, p90 = (float(np.percentile(seconds, p)) for p in (10, 50, 90))
    row = {"median_s": median, "p10_s": p10, "p90_s": p90, "min_s": min(seconds)}
    return row if tokens is None else row | {"tokens_per_s": tokens / median}


def ratio(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """How many times faster `ours` is: of the medians, of the minima, median of the rounds."""
    rounds = [t / o for t, o in zip(theirs, ours, strict=True)]
    return {
        "of_medians": float(np.median(theirs) / np.median(ours)),
        "of_minima": min(theirs) / min(ours),
        "median_of_rounds": float(np.median(rounds)),
    }


def use_threads(n: int) -> None:
    """Keeps this process and its children to n cores; XLA sizes its thread pool by them."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:n])


def machine() -> dict[str, Any]:
    """Versions, device, load and date: what a figure means nothing without."""
    return {
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "flax": flax.__version__,
            "optax": optax.__version__,
        },
        "device": jax.devices()[0].device_kind,
        "processor": processor(),
        "load": os.getloadavg(),
        "date": datetime.date.today().isoformat(),
    }
