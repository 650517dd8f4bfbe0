"""The figures of a run, from the files in its workdir."""

from collections.abc import Sequence
import json
import math
from pathlib import Path
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
METRICS = ("loss", "ppl", "grad_norm", "step_seconds", "program_bytes", *EVALUATED)
_CURVE = ("step", *METRICS, "val_top1_acc", "memory_bytes")
_MACHINE = ("date", "device_kind", "processor", "packages")


def figures(workdir: Workdir) -> dict[str, Any]:
    """Sizes, last losses, speed, curve, machine and text of a run; JSON without NaN.

    `step_seconds` is of all steps together, without evaluation and compilation.

    Raises:
      ValueError: the folder is no run's, or a file in it is damaged.
    """
    base = workdir.saved_config().base
    rows = read_metrics(workdir.metrics)
    sums = totals(rows)
    model = jax.eval_shape(lambda: LM(base, rngs=nnx.Rngs(0)))
    data, around = read_json(workdir.data), read_json(workdir.environment)
    found = {
        "train_loss": rows[-1]["loss"] if rows else None,
        "parameters": parameter_count(model),
        "tokens": round(sums[-1][0]) if sums else 0,
        "tokens_per_s": _median([r["tokens_per_s"] for r in rows[1:] or rows]),
        "step_seconds": round(sums[-1][1], 3) if sums else 0.0,
        "curve": [{k: row[k] for k in _CURVE if k in row} for row in rows],
        "base": bases.name_of(base),
        "device": around["device_kind"],
        "machine": {name: around.get(name) for name in _MACHINE},
        "data": {name: data[name] for name in data if name.endswith("_sha256")},
    }
    return plain(found)


def said_of(machine: dict[str, Any]) -> str:
    """Date, device and jax of a run, as a line says them; those of an older run may be missing."""
    device, processor = machine.get("device_kind"), machine.get("processor")
    parts = [machine.get("date"), None if device == "cpu" else device, processor]
    jax_version = (machine.get("packages") or {}).get("jax")
    parts += [f"jax {jax_version}"] if jax_version else []
    return ", ".join(part for part in parts if part) or "on a machine that is not known"


def totals(rows: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    """Tokens and seconds of steps from the first on, up to each logged step.

    A step that was not logged has as many tokens as the median of those that were: so tokens are
    exact where every step has the same, but for the last, which is always logged. The seconds of a
    logged step are already the mean since the one before.
    """
    usual = _median([row["tokens"] for row in rows])
    tokens, seconds, before, sums = 0.0, 0.0, 0, []
    for row in rows:
        steps, before = row["step"] - before, row["step"]
        tokens += row["tokens"] + (steps - 1) * usual
        seconds += steps * row["step_seconds"]
        sums.append((tokens, seconds))
    return sums


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file of a run holds.

    Raises:
      ValueError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def plain(value: Any) -> Any:
    """JSON without NaN and infinity, which become null."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
