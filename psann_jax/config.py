"""The assembled config of a run: a tree of dataclasses, checked as a whole, and its JSON."""

import dataclasses
import difflib
import json
import types
from typing import Any, Union, get_args, get_origin, get_type_hints

from psann_jax import bases
from psann_jax.data import DataConfig
from psann_jax.train.config import TrainConfig
from psann_jax.train.optimizer import OptimizerConfig


@dataclasses.dataclass(kw_only=True)
class MeshConfig:
    """Sizes of the device mesh; one may be -1 and takes the devices that are left."""

    data: int = -1  # copies of the model, each with its share of the batch
    fsdp: int = 1  # the batch is spread, and so are weights and optimizer
    tensor: int = 1  # heads, MLP features and vocabulary are spread


@dataclasses.dataclass(kw_only=True)
class Config:
    """Everything a run is made from; saved as config.json beside what it makes."""

    base: bases.Base = dataclasses.field(default_factory=bases.get("waveresnet"))
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    workdir: str = "runs/default"

    def __post_init__(self):
        if self.train.batch_tokens < self.data.max_length:
            raise ValueError(
                f"train.batch_tokens={self.train.batch_tokens} is less than one row of "
                f"data.max_length={self.data.max_length} tokens; raise it or shorten the rows"
            )


def checked(config: Any) -> Any:
    """Rebuilds a config bottom-up, so that every __post_init__ sees its final values.

    Raises:
      ValueError: a field has a value of the wrong type or out of range.
    """
    return _checked(config, "")


def _checked(config: Any, prefix: str) -> Any:
    hints, values = get_type_hints(type(config)), {}
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            values[field.name] = _checked(value, name + ".")
        else:
            values[field.name] = _typed(value, hints[field.name], name)
    return type(config)(**values)


def _typed(value: Any, hint: Any, name: str) -> Any:
    """`value` as its annotation wants it: lists become tuples, whole numbers floats."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        if value is None and type(None) in args:
            return None
        rest = [a for a in args if a is not type(None)]
        return _typed(value, rest[0], name)
    if origin is tuple and isinstance(value, (list, tuple)):
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else args
        if len(inner) == len(value):
            return tuple(_typed(v, h, name) for v, h in zip(value, inner, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    plain = origin or hint
    wrong_bool = isinstance(value, bool) and plain is not bool
    if wrong_bool or (isinstance(plain, type) and not isinstance(value, plain)):
        wanted = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}
        raise ValueError(f"{name}={value!r} must be {wanted.get(plain, f'of type {hint}')}")
    return value


def to_json(config: Config) -> str:
    """The config as JSON; the base carries its registered name."""
    tree = dataclasses.asdict(config)
    tree["base"] = {"name": bases.name_of(config.base), **tree["base"]}
    return json.dumps(tree, indent=2) + "\n"


def from_json(text: str) -> Config:
    """The config of `to_json`.

    Raises:
      ValueError: it is no JSON object, or has an unknown field or base.
    """
    tree = json.loads(text)
    if not isinstance(tree, dict) or not isinstance(tree.get("base"), dict):
        raise ValueError("the config is not a JSON object with a base")
    base = dict(tree["base"])
    cls = bases.get(base.pop("name", "missing"))
    return checked(_from_tree(Config, {**tree, "base": _from_tree(cls, base, "base.")}))


def base_to_json(base: bases.Base) -> dict[str, Any]:
    """A base alone, as JSON-ready dict with its registered name."""
    return {"name": bases.name_of(base), **dataclasses.asdict(base)}


def base_from_json(tree: dict[str, Any]) -> bases.Base:
    """The base of `base_to_json`; errors as `from_json`."""
    fields = dict(tree)
    cls = bases.get(fields.pop("name", "missing"))
    return _checked(_from_tree(cls, fields, "base."), "base.")


def _from_tree(cls: type, tree: dict[str, Any], prefix: str = "") -> Any:
    hints, fields = get_type_hints(cls), {f.name for f in dataclasses.fields(cls)}
    values = {}
    for key, value in tree.items():
        if key not in fields:
            raise ValueError(f"config has no field {prefix + key!r}{nearest(key, fields)}")
        hint = hints[key]
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            value = _from_tree(hint, value, f"{prefix}{key}.")
        values[key] = tuple(value) if isinstance(value, list) else value
    return cls(**values)


def leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every field under its dotted name, in reading order."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            flat |= leaves(value, name + ".")
        else:
            flat[name] = value
    return flat


def nearest(word: str, known) -> str:
    """'; did you mean ...?' for the known word most like this one, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
