"""What a run of a sweep came to, in figures that do not tell in how many starts it was made."""

import functools
import math
from typing import Any

from psann_jax.run.environment import code_digest
from psann_jax.run.figures import figures
from psann_jax.run.guard import NotFinite
from psann_jax.run.main import run
from psann_jax.run.report import Report
from psann_jax.run.sweep import Job
from psann_jax.run.workdir import Workdir

Result = dict[str, Any]
LAST = ("val_loss", "val_ppl", "val_top1_acc", "program_bytes")


def run_job(job: Job, report: Report | None = None) -> Result:
    """Runs a job to its end, or reads what it came to before.

    A run that diverged has come to its end too: it would diverge again. To run it anew, remove
    its folder.

    Raises:
      ValueError: a value that cannot be used.
      Preempted: a signal stopped the run; what was done is saved.
    """
    if (result := job.result()) is None:
        code, diverged = _code(), None
        try:
            run(job.config, report)
        except NotFinite as error:
            diverged = str(error)
        job.keep({"diverged": diverged, **figures(Workdir(job.config.workdir)), "code": code})
        result = job.result() or {}
    return result


def measured(result: Result, metric: str) -> Result:
    """The result with "value", the metric's last, and "best"; nan where the run diverged.

    Also the last of LAST, None where there are none. The memory is that of the compiled step: the
    peak of the process, "memory_bytes", may be that of a run before it.
    All are taken from the curve, so that a result serves whichever metric a sweep has.

    Raises:
      ValueError: the run did not log the metric.
    """
    values = _of(result, metric)
    if not values and not result["diverged"]:
        logged = sorted({name for row in result["curve"] for name in row} - {"step"})
        raise ValueError(
            f"metric={metric!r}: run {result['variant']}-{result['seed']} logged none; "
            f"it has {', '.join(logged)}"
        )
    finite = [value for value in values if value is not None]
    sound = values and values[-1] is not None and not result["diverged"]
    logged = {name: _of(result, name) for name in LAST}
    return {
        **result,
        **{name: found[-1] if found else None for name, found in logged.items()},
        "value": values[-1] if sound else math.nan,
        "best": min(finite, default=math.nan),
    }


def _of(result: Result, metric: str) -> list[Any]:
    """What the curve of a result has of a metric; None where it was no number."""
    return [row[metric] for row in result["curve"] if metric in row]


@functools.cache
def _code() -> str:
    """The digest of the code that this process runs, not of what its files may become."""
    return code_digest()
