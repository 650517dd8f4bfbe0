"""The figures of a run, from the files in its workdir."""

from collections.abc import Sequence
import json
import math
import statistics
from typing import Any

from flax import nnx
import jax

from psann_jax import bases
from psann_jax.model import LM, parameter_count
from psann_jax.run.workdir import Workdir
from psann_jax.train.metrics import read_metrics

EVALUATED = ("val_loss", "val_ppl", "val_bits_per_byte", "val_loss_carried")
# Names of metrics.jsonl that are the lower the better.
METRICS = ("loss", "ppl", "grad_norm", "step_seconds", "memory_bytes", *EVALUATED)


def figures(workdir: Workdir) -> dict[str, Any]:
    """Sizes, last losses, speed, curve, machine and text of a run; JSON without NaN.

    Raises:
      ValueError: the folder is no run's.
    """
    base = workdir.saved_config().base
    rows = read_metrics(workdir.metrics)
    model = jax.eval_shape(lambda: LM(base, rngs=nnx.Rngs(0)))
    data, around = (json.loads(p.read_text()) for p in (workdir.data, workdir.environment))
    found = {
        "train_loss": rows[-1]["loss"] if rows else None,
        "parameters": parameter_count(model),
        "tokens": round(over_all_steps(rows, "tokens")),
        "tokens_per_s": _median([r["tokens_per_s"] for r in rows[1:] or rows]),
        "step_seconds": round(over_all_steps(rows, "step_seconds"), 3),
        "curve": [{k: row[k] for k in ("step", *METRICS) if k in row} for row in rows],
        "base": bases.name_of(base),
        "device": around["device_kind"],
        "machine": {name: around.get(name) for name in ("date", "processor", "packages")},
        "data": {name: data[name] for name in data if name.endswith("_sha256")},
    }
    return _plain(found)


def over_all_steps(rows: Sequence[dict[str, Any]], name: str) -> float:
    """Sum of a metric over the steps of a run.

    A step that was not logged counts as the median of those that were: so it is exact for tokens
    where every step has the same, but for the last, which is always logged.
    """
    values = [row[name] for row in rows]
    unseen = rows[-1]["step"] - len(rows) if rows else 0
    return sum(values) + (unseen * _median(values) if unseen else 0)


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def _plain(value: Any) -> Any:
    """JSON without NaN and infinity, which become null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
