"""The memory of a run: how much it took, and what helps where it was not enough."""

from collections.abc import Iterator
import contextlib
import re
import resource
import sys

import jax

from psann_jax.config import Config
from psann_jax.run.dry_run import estimate
from psann_jax.run.plan import Plan

_FULL = re.compile(r"RESOURCE_EXHAUSTED|[Oo]ut of memory|OUT_OF_MEMORY")


def memory_bytes() -> int:
    """Peak memory so far: of the fullest local device, or of the process where it has none."""
    stats = [d.memory_stats() for d in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if s and "peak_bytes_in_use" in s]
    if peaks:
        return max(peaks)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextlib.contextmanager
def out_of_memory(config: Config, plan: Plan) -> Iterator[None]:
    """Turns a device's "out of memory" into one line with what is needed, what is there, and how
    to need less.

    Raises:
      ValueError: that line.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not _FULL.search(str(error)):
            raise
        raise ValueError(_said(config, plan)) from error


def _said(config: Config, plan: Plan) -> str:
    needed = estimate(config, plan.mesh.size).peak_bytes / 1e9
    stats = jax.local_devices()[0].memory_stats() or {}
    limit = stats.get("bytes_limit")
    there = f" of the {limit / 1e9:.1f} GB there" if limit else ""
    accumulated, remat = config.train.grad_accum_steps, config.base.remat
    again = "" if remat == "full" else f"set base.remat='full' (now {remat!r}), "
    return (
        f"a device is out of memory: the step needs about {needed:.1f} GB{there}; {again}spread "
        "the weights over more devices with mesh.fsdp, or in another workdir raise "
        f"train.grad_accum_steps={accumulated} to {2 * accumulated}"
    )
