"""Trees of plain dataclasses as configs: checked, flattened, and read back from JSON."""

import dataclasses
import difflib
import math
import numbers
import os
from pathlib import Path
import types
from typing import Any, Union, get_args, get_origin, get_type_hints

_WANTED = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}


def checked(config: Any, prefix: str = "") -> Any:
    """Rebuilds a config bottom-up, so that every __post_init__ sees its final values.

    Args:
      prefix: stands before the field names of errors, as "base.".

    Raises:
      ValueError: a field has a value of the wrong type or out of range.
    """
    hints, values = get_type_hints(type(config)), {}
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            values[field.name] = checked(value, name + ".")
        else:
            values[field.name] = _typed(value, hints[field.name], name)
    return type(config)(**values)


def take_types(config: Any, prefix: str) -> None:
    """Gives each field of a dataclass what its annotation wants, in place; for a __post_init__.

    Fields that hold a config of their own stay as they are.

    Args:
      prefix: stands before the field names of errors, as "base.".

    Raises:
      ValueError: a field has a value of another type.
    """
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        if not dataclasses.is_dataclass(hint := hints[field.name]):
            value = _typed(getattr(config, field.name), hint, prefix + field.name)
            object.__setattr__(config, field.name, value)  # of a frozen one too


def _typed(value: Any, hint: Any, name: str) -> Any:
    """`value` as its annotation wants it: lists become tuples, whole floats ints."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        if value is None and type(None) in args:
            return None
        return _typed(value, next(a for a in args if a is not type(None)), name)
    if origin is tuple:
        return _typed_tuple(value, args, name)
    if getattr(value, "ndim", None) == 0:  # an array's single number
        value = value.item()
    if hint is float and is_number(value):
        return _as_float(value, name)
    whole = is_whole(value) or (is_number(value) and math.isfinite(value) and value == int(value))
    if hint is int and whole:
        return int(value)
    wrong_bool = isinstance(value, bool) and hint is not bool
    if wrong_bool or (isinstance(hint, type) and not isinstance(value, hint)):
        raise ValueError(f"{name}={value!r} must be {_WANTED.get(hint, f'of type {hint}')}")
    return value


def _as_float(value: Any, name: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is a number of over 308 digits; give a smaller one") from None


def _typed_tuple(value: Any, args: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name}={value!r} must be a tuple, as ({value!r},)")
    inner = [args[0]] * len(value) if args[-1] is Ellipsis else args
    if len(inner) != len(value):
        raise ValueError(f"{name}={value!r} must have {len(inner)} entries")
    return tuple(_typed(v, h, name) for v, h in zip(value, inner, strict=True))


def as_tuple(value: Any) -> Any:
    """A list as a tuple, other values as they are."""
    return tuple(value) if isinstance(value, list) else value


def are_numbers(value: Any, count: int) -> bool:
    """Whether it is a tuple of so many numbers."""
    return isinstance(value, tuple) and len(value) == count and all(map(is_number, value))


def is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def from_tree(cls: type, tree: dict[str, Any], prefix: str = "") -> Any:
    """An instance of dataclass `cls` from the dict that `dataclasses.asdict` made, checked.

    Raises:
      ValueError: an unknown field, or a value that the class refuses.
    """
    hints, fields, values = get_type_hints(cls), {f.name for f in dataclasses.fields(cls)}, {}
    for key, value in tree.items():
        name = prefix + key
        if key not in fields:
            raise ValueError(f"config has no field {name!r}{nearest(key, fields)}")
        if isinstance(hints[key], type) and dataclasses.is_dataclass(hints[key]):
            if isinstance(value, dict):
                value = from_tree(hints[key], value, name + ".")
            elif not isinstance(value, hints[key]):
                raise ValueError(f"{name}={value!r} must be an object with the fields of {key}")
        else:
            value = _typed(value, hints[key], name)
        values[key] = value
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


def local_path(name: str, value: str | os.PathLike) -> Path:
    """The path of what a field or a variable names.

    Raises:
      ValueError: it is empty, no path at all, or an address, as gs://bucket/x, of which a path
        would make a folder gs: here.
    """
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise ValueError(f"{name}={value!r} must be a path")
    if "://" in str(value):
        raise ValueError(
            f"{name}={str(value)!r} is an address, and files are written by path; mount a disk "
            "that all hosts share, or the bucket (as gcsfuse does), and give the folder there"
        )
    return Path(value)


def cache_folder() -> Path:
    """$PSANN_JAX_CACHE, else ~/.cache/psann_jax."""
    chosen = os.environ.get("PSANN_JAX_CACHE") or "~/.cache/psann_jax"
    return local_path("PSANN_JAX_CACHE", chosen).expanduser()


def nearest(word: str, known: Any) -> str:
    """'; did you mean ...?' for the known word most like this one, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
