"""Many runs that differ in a few fields: a grid of variants and seeds, each run once.

A finished run leaves result.json in its workdir and is not run again; a broken one goes on from
its checkpoint. So a sweep that was killed and started again ends with the table of an unbroken one.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import json
from pathlib import Path
from typing import Any

from psann_jax import bases
from psann_jax.config import Config, checked, from_json, leaves, nearest, to_json
from psann_jax.fields import is_whole, local_path
from psann_jax.run.figures import EVALUATED, METRICS

RESULT = "result.json"
TIMINGS = ("tokens_per_s", "step_seconds")  # in which two starts of a run differ
_PLACES = {"workdir", "data.cache_dir"}  # in which a moved run differs
_FORMAT = 3  # of result.json; a run with another one is looked at again, from its checkpoint


@dataclasses.dataclass(kw_only=True)
class Sweep:
    """What a sweep runs: every variant with every seed.

    Attributes:
      config: what all runs share; its workdir is the sweep's folder.
      variants: name -> fields that it changes, as {"base.sine.frequency": 3.0}; the key "base"
        takes a whole Base. Names become folders.
      seeds: of the weights and dropout (train.seed); text, split and order stay the same.
      baseline: the variant that others are compared with; None is the first.
      metric: one of METRICS; what counts is the last that a run logged.
    """

    config: Config
    variants: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...] = (0, 1, 2)
    baseline: str | None = None
    metric: str = "val_bits_per_byte"

    def __post_init__(self):
        self._check_types()
        if not self.variants or not self.seeds:
            raise ValueError("a sweep needs at least one of its variants and one of its seeds")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={self.seeds} names one twice")
        for name in self.variants:
            if not name or name != Path(name).name or name.startswith("."):
                raise ValueError(f"variants: {name!r} cannot name a folder; use letters and -")
        if self.baseline is not None and self.baseline not in list(self.variants):
            raise ValueError(
                f"baseline={self.baseline!r} is none of the variants"
                f"{nearest(str(self.baseline), list(self.variants))}"
            )
        if self.metric not in METRICS:
            raise ValueError(
                f"metric={self.metric!r} must be one of {', '.join(METRICS)}"
                f"{nearest(str(self.metric), METRICS)}"
            )

    def _check_types(self) -> None:
        if not isinstance(self.config, Config):
            raise ValueError(f"config={self.config!r} must be a psann_jax Config")
        if not isinstance(self.variants, Mapping):
            raise ValueError(
                f"variants={self.variants!r} must be a dict, name -> fields that it changes"
            )
        for name, fields in self.variants.items():
            names = [name, *fields] if isinstance(fields, Mapping) else [None]
            if not all(isinstance(n, str) for n in names):
                raise ValueError(
                    f"variants: {name!r}: {fields!r} must be a name and a dict of fields, as "
                    '"fast": {"base.sine.frequency": 3.0}'
                )
            if own := [field for field in fields if field in ("train.seed", "workdir")]:
                raise ValueError(
                    f"variants: {name!r} sets {own[0]}, which each run of a sweep has of its own; "
                    "give seeds, and the workdir of the config"
                )
        if not isinstance(self.seeds, tuple | list | range) or not all(map(is_whole, self.seeds)):
            raise ValueError(f"seeds={self.seeds!r} must be a tuple of whole numbers, as (0, 1, 2)")

    @property
    def compared_with(self) -> str:
        return self.baseline or next(iter(self.variants))

    @property
    def folder(self) -> Path:
        return local_path("workdir", self.config.workdir).expanduser()

    def jobs(self) -> Iterator["Job"]:
        """All variants with one seed, before the next seed: a sweep cut short can be compared.

        Raises:
          ValueError: a field or a value that a variant cannot have, or a metric that it lacks.
        """
        for seed in self.seeds:
            for name, fields in self.variants.items():
                workdir = str(self.folder / f"{name}-{seed}")
                own = {**fields, "train.seed": seed, "workdir": workdir}
                config = checked(with_fields(self.config, own))
                self._refuse_unmeasured(name, config)
                yield Job(name, seed, config)

    def _refuse_unmeasured(self, variant: str, config: Config) -> None:
        if self.metric in EVALUATED and not config.data.val_split:
            raise ValueError(
                f"metric={self.metric!r} needs validation text, and variant {variant!r} has "
                "data.val_split=0; raise it, or take metric='loss'"
            )
        if self.metric == "val_loss_carried" and config.data.order != "tracks":
            raise ValueError(
                f"metric='val_loss_carried' needs data.order='tracks', and variant {variant!r} "
                f"has {config.data.order!r}; take metric='val_loss'"
            )


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    variant: str
    seed: int
    config: Config

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.seed}"

    @property
    def result_path(self) -> Path:
        return Path(self.config.workdir).expanduser() / RESULT

    def result(self) -> dict[str, Any] | None:
        """What the run came to; None before its end. Touches no device.

        Raises:
          ValueError: the result is that of another config.
        """
        if not self.result_path.exists():
            return None
        result = json.loads(self.result_path.read_text())
        if result.get("format") != _FORMAT:
            return None
        # Fields that are newer than the result have the values that it was made with.
        old, new = leaves(from_json(json.dumps(result["config"]))), leaves(self.config)
        names = sorted((old.keys() | new.keys()) - _PLACES)
        if differing := [n for n in names if old.get(n) != new.get(n)]:
            said = ", ".join(f"{n} {old.get(n)!r} -> {new.get(n)!r}" for n in differing)
            raise ValueError(
                f"{self.result_path} is of another config: {said}; choose another --workdir, or "
                "the old values"
            )
        return result

    def keep(self, result: dict[str, Any]) -> None:
        """Writes what `result` gives from then on."""
        part = self.result_path.with_suffix(".part")
        whole = {"variant": self.variant, "seed": self.seed, "format": _FORMAT, **result}
        whole["config"] = json.loads(to_json(self.config))
        part.write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n")
        part.rename(self.result_path)


def with_fields(config: Config, fields: Mapping[str, Any]) -> Config:
    """The config with dotted fields replaced, unchecked.

    Raises:
      ValueError: there is no such field, or it cannot have the value.
    """
    for name, value in fields.items():  # a new base before what is changed in it
        if name == "base":
            if not isinstance(value, bases.Base):
                raise ValueError(f"variants: base={value!r} must be a Base, as bases.get(NAME)()")
            config = dataclasses.replace(config, base=value)
    for name, value in fields.items():
        if name != "base":
            try:
                config = _replaced(config, name.split("."), value, name, config)
            except TypeError as error:  # a number is wanted, as a rule
                raise ValueError(f"variants: {name}={value!r} cannot be used: {error}") from None
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
