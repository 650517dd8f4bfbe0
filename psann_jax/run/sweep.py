"""Many runs that differ in a few fields: a grid of variants and seeds, each run once.

A finished run leaves result.json in its workdir and is not run again; a broken one goes on from
its checkpoint. So a sweep that was killed and started again ends with the table of an unbroken one.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import json
import math
from pathlib import Path
import time
from typing import Any

import jax

from psann_jax import bases
from psann_jax.config import Config, checked, leaves, nearest, to_json
from psann_jax.model import parameter_count
from psann_jax.run.main import run
from psann_jax.run.report import Report
from psann_jax.run.workdir import Workdir
from psann_jax.train.metrics import read_metrics

RESULT = "result.json"
_CURVE = ("step", "loss", "val_loss", "val_bits_per_byte")


@dataclasses.dataclass(kw_only=True)
class Sweep:
    """What a sweep runs: every variant with every seed.

    Attributes:
      config: what all runs share; its workdir is the sweep's folder.
      variants: name -> fields that it changes, as {"base.sine.frequency": 3.0}; the key "base"
        takes a whole Base. Names become folders.
      seeds: of the weights and dropout (train.seed); text, split and order stay the same.
      baseline: the variant that others are compared with; None is the first.
      metric: a name of metrics.jsonl that is the lower the better, of the last evaluation.
    """

    config: Config
    variants: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...] = (0, 1, 2)
    baseline: str | None = None
    metric: str = "val_bits_per_byte"

    def __post_init__(self):
        if not self.variants or not self.seeds:
            raise ValueError("a sweep needs at least one of its variants and one of its seeds")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={self.seeds} names one twice")
        for name in self.variants:
            if not name or name != Path(name).name or name.startswith("."):
                raise ValueError(f"variants: {name!r} cannot name a folder; use letters and -")
        if self.baseline is not None and self.baseline not in self.variants:
            raise ValueError(
                f"baseline={self.baseline!r} is none of the variants"
                f"{nearest(self.baseline, list(self.variants))}"
            )

    @property
    def compared_with(self) -> str:
        return self.baseline or next(iter(self.variants))

    @property
    def folder(self) -> Path:
        return Path(self.config.workdir).expanduser()

    def jobs(self) -> Iterator["Job"]:
        """All variants with one seed, before the next seed: a sweep cut short can be compared."""
        for seed in self.seeds:
            for name, fields in self.variants.items():
                workdir = str(self.folder / f"{name}-{seed}")
                own = {**fields, "train.seed": seed, "workdir": workdir}
                yield Job(name, seed, checked(with_fields(self.config, own)))


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    variant: str
    seed: int
    config: Config

    @property
    def result_path(self) -> Path:
        return Workdir(self.config.workdir).path / RESULT

    def result(self) -> dict[str, Any] | None:
        """What the run came to; None before its end.

        Raises:
          ValueError: the result is that of another config.
        """
        if not self.result_path.exists():
            return None
        result = json.loads(self.result_path.read_text())
        if result["config"] != json.loads(to_json(self.config)):
            raise ValueError(
                f"{self.result_path} is of another config; choose another --workdir, or remove it"
            )
        return result


def with_fields(config: Config, fields: Mapping[str, Any]) -> Config:
    """The config with dotted fields replaced, unchecked.

    Raises:
      ValueError: there is no such field.
    """
    for name, value in fields.items():  # a new base before what is changed in it
        if name == "base":
            config = dataclasses.replace(config, base=value)
    for name, value in fields.items():
        if name != "base":
            config = _replaced(config, name.split("."), value, name, config)
    return config


def _replaced(part: Any, path: list[str], value: Any, name: str, config: Config) -> Any:
    first, *rest = path
    if not dataclasses.is_dataclass(part) or first not in {
        f.name for f in dataclasses.fields(part)
    }:
        raise ValueError(f"variants: there is no field {name!r}{nearest(name, leaves(config))}")
    if rest:
        value = _replaced(getattr(part, first), rest, value, name, config)
    new: Any = part
    return dataclasses.replace(new, **{first: value})


def run_job(job: Job, metric: str, report: Report | None = None) -> dict[str, Any]:
    """Runs a job to its end, or reads what it came to before.

    Raises:
      ValueError: a value that cannot be used, or a metric that the run does not have.
    """
    if (result := job.result()) is not None:
        return result
    began = time.monotonic()
    outcome = run(job.config, report)
    rows = read_metrics(Workdir(job.config.workdir).metrics)
    measured = [row[metric] for row in rows if metric in row]
    if not measured:
        known = sorted({key for row in rows for key in row})
        raise ValueError(f"metric={metric!r} is not in the metrics{nearest(metric, known)}")
    speeds = sorted(row["tokens_per_s"] for row in rows if row["step"] > 1) or [math.nan]
    result = {
        "variant": job.variant,
        "seed": job.seed,
        "metric": metric,
        "value": measured[-1],
        "best": min(measured),
        "train_loss": rows[-1]["loss"],
        "parameters": parameter_count(outcome.model),
        "tokens": rows[-1]["tokens"] * outcome.step,
        "tokens_per_s": speeds[len(speeds) // 2],
        "seconds": round(time.monotonic() - began, 1),
        "curve": [{key: row[key] for key in (*_CURVE, metric) if key in row} for row in rows],
        "base": bases.name_of(job.config.base),
        "device": jax.devices()[0].device_kind,
        "config": json.loads(to_json(job.config)),
    }
    part = job.result_path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.rename(job.result_path)
    return result
