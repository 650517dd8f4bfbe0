"""Bases by name. A base of your own is one decorated dataclass, known everywhere by its name."""

import dataclasses
from typing import Any

from psann_jax import fields
from psann_jax.bases.base import Base

_BASES: dict[str, type[Base]] = {}


def register(name: str):
    """Class decorator: makes a base known as `name`.

    Raises:
      ValueError: the name is taken by another class. The same class may be defined again,
        as a notebook cell run twice does.
    """

    def add(cls: type[Base]) -> type[Base]:
        known = _BASES.get(name)
        if known and not _same(known, cls):
            raise ValueError(f"base {name!r} is already {known.__module__}.{known.__qualname__}")
        _BASES[name] = cls
        return cls

    return add


def _same(a: type, b: type) -> bool:
    """Whether two classes are one definition, perhaps run twice."""
    return (a.__module__, a.__qualname__) == (b.__module__, b.__qualname__)


def get(name: str) -> type[Base]:
    """The class of base `name`; `get(name)(vocab_size=..., ...)` is its config.

    Raises:
      ValueError: no base has this name.
    """
    if name not in _BASES:
        near = fields.nearest(str(name), _BASES)
        raise ValueError(
            f"base={name!r} is unknown{near}; known: {', '.join(names())}; one of your own is "
            "known once its file has run: import it, or python -m psann_jax --import FILE VERB"
        )
    return _BASES[name]


def names() -> list[str]:
    """All registered names, sorted."""
    return sorted(_BASES)


def elsewhere(field: str) -> str:
    """'; it is an option of ...' for a field that only other bases have, or nothing."""
    having = [n for n in names() if field in {f.name for f in dataclasses.fields(_BASES[n])}]
    return f"; it is an option of {', '.join(having)}" if having else ""


def name_of(base: Base | type[Base]) -> str:
    """The name under which a config's class, or the class itself, is registered."""
    wanted = base if isinstance(base, type) else type(base)
    for name, cls in _BASES.items():
        if _same(cls, wanted):
            return name
    raise ValueError(f"{wanted.__qualname__} is not registered; decorate it with @register")


def to_tree(base: Base) -> dict[str, Any]:
    """A base as a JSON-ready dict with its registered name."""
    return {"name": name_of(base), **dataclasses.asdict(base)}


def from_tree(tree: dict[str, Any]) -> Base:
    """The base of `to_tree`.

    Raises:
      ValueError: an unknown base or field, or a value that the base refuses.
    """
    values = dict(tree)
    cls = get(values.pop("name", ""))
    known = {f.name for f in dataclasses.fields(cls)}
    for name in values.keys() - known:
        if where := elsewhere(name):
            raise ValueError(f"base {name_of(cls)!r} has no field {name!r}{where}")
    return fields.from_tree(cls, values, "base.")
