"""What a run of a sweep came to, in figures that do not tell in how many starts it was made."""

from collections.abc import Sequence
import functools
import json
import math
import statistics
from typing import Any

from flax import nnx
import jax

from psann_jax import bases
from psann_jax.model import LM, parameter_count
from psann_jax.run.environment import code_digest
from psann_jax.run.guard import NotFinite
from psann_jax.run.main import run
from psann_jax.run.report import Report
from psann_jax.run.sweep import METRICS, Job
from psann_jax.run.workdir import Workdir
from psann_jax.train.metrics import read_metrics

Result = dict[str, Any]


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
        job.keep({"diverged": diverged, **_figures(Workdir(job.config.workdir)), "code": code})
        result = job.result() or {}
    return result


def measured(result: Result, metric: str) -> Result:
    """The result with "value", the metric's last, and "best"; nan where the run diverged.

    They are taken from the curve, so that a result serves whichever metric a sweep has.
    """
    values = [row[metric] for row in result["curve"] if metric in row]
    finite = [value for value in values if value is not None]
    sound = values and values[-1] is not None and not result["diverged"]
    return {
        **result,
        "value": values[-1] if sound else math.nan,
        "best": min(finite, default=math.nan),
    }


def _figures(workdir: Workdir) -> Result:
    """What the files of a run say of it."""
    rows, base = read_metrics(workdir.metrics), workdir.saved_config().base
    model = jax.eval_shape(lambda: LM(base, rngs=nnx.Rngs(0)))
    data, around = (json.loads(p.read_text()) for p in (workdir.data, workdir.environment))
    figures = {
        "train_loss": rows[-1]["loss"] if rows else None,
        "parameters": parameter_count(model),
        "tokens": round(over_all_steps(rows, "tokens")),
        "tokens_per_s": _median([r["tokens_per_s"] for r in rows[1:] or rows]),
        "step_seconds": round(over_all_steps(rows, "step_seconds"), 3),
        "curve": [{k: row[k] for k in ("step", *METRICS) if k in row} for row in rows],
        "base": bases.name_of(base),
        "device": jax.devices()[0].device_kind,
        "machine": {name: around[name] for name in ("date", "processor", "packages")},
        "data": {name: data[name] for name in data if name.endswith("_sha256")},
    }
    return _plain(figures)


def over_all_steps(rows: Sequence[Result], name: str) -> float:
    """Sum of a metric over the steps of a run.

    A step that was not logged counts as the median of those that were: so it is exact for tokens
    where every step has the same, but for the last, which is always logged.
    """
    values = [row[name] for row in rows]
    unseen = rows[-1]["step"] - len(rows) if rows else 0
    return sum(values) + (unseen * _median(values) if unseen else 0)


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


@functools.cache
def _code() -> str:
    """The digest of the code that this process runs, not of what its files may become."""
    return code_digest()


def _plain(value: Any) -> Any:
    """JSON without NaN and infinity, which become null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
